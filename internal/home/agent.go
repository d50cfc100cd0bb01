package home

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/peer"
)

func (h *Home) agentFile() string { return filepath.Join(h.Dir, "keys", "agent.key") }

// nextAgentFile holds the key that is the agent's as soon as the charter in force names it. Both files stay until the
// next renewal: an embassy that was away is told the charter with the key that it knows.
func (h *Home) nextAgentFile() string { return filepath.Join(h.Dir, "keys", "agent.next") }

// agentKeys are the key in agent.key and the one in agent.next, which is nil where none is.
func (h *Home) agentKeys() (key, next ed25519.PrivateKey, err error) {
	if key, err = readKey(h.agentFile()); err != nil {
		return nil, nil, err
	}
	next, err = readKey(h.nextAgentFile())
	if errors.Is(err, fs.ErrNotExist) {
		return key, nil, nil
	}
	return key, next, err
}

// names tells whether the charter in force has an agent of this key.
func (h *Home) names(key ed25519.PrivateKey) bool {
	if h.Charter == nil || key == nil {
		return false
	}
	_, ok := h.Charter.AgentByKey(key.Public().(ed25519.PublicKey))
	return ok
}

// AgentKey reads the key that signs heads and speaks to embassies.
func (h *Home) AgentKey() (ed25519.PrivateKey, error) {
	key, next, err := h.agentKeys()
	if h.names(next) {
		return next, err
	}
	return key, err
}

// OtherAgentKey is the key that is not AgentKey: the one before it, or the one that a charter has yet to name. It is nil
// where the key was never renewed.
func (h *Home) OtherAgentKey() (ed25519.PrivateKey, error) {
	key, next, err := h.agentKeys()
	if h.names(next) {
		return key, err
	}
	return next, err
}

// RenewAgent makes a new key for home's agent and names it in a charter that is to be proposed, as an agent of another
// name. The agent before stays named, for what it signed, and its last day is over: embassies take nothing of it from then
// on. Done again before that charter is in force, it takes the key that was made.
func (h *Home) RenewAgent(c *charter.Charter, name string, now time.Time) error {
	key, next, err := h.agentKeys()
	if err != nil {
		return err
	}
	if h.names(next) {
		// A crash after this leaves one key in both files, which is the agent's.
		file, err := peer.EncodeKey(next)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(h.agentFile(), file, peer.KeyPerm); err != nil {
			return err
		}
		if err := durable.Remove(h.nextAgentFile()); err != nil {
			return err
		}
		key, next = next, nil
	}
	if next == nil {
		if _, next, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return err
		}
		file, err := peer.EncodeKey(next)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(h.nextAgentFile(), file, peer.KeyPerm); err != nil {
			return err
		}
	}
	own := func(k ed25519.PrivateKey) func(charter.Agent) bool {
		return func(a charter.Agent) bool { return a.PublicKey().Equal(k.Public()) }
	}
	c.Agents = slices.DeleteFunc(c.Agents, own(next)) // of a proposal that had it under another name
	i := slices.IndexFunc(c.Agents, own(key))
	if i < 0 {
		return fmt.Errorf("charter %d names no agent with home's key", c.Number-1)
	}
	c.Agents[i].Until = charter.DateOf(now.AddDate(0, 0, -1))
	c.Agents = append(c.Agents, charter.Agent{Name: name, Key: charter.EncodeKey(next.Public().(ed25519.PublicKey))})
	return nil
}
