package embassy

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// vigil is this embassy as a witness of one state's other ledgers. After every
// start it is frozen, and asks the others how far they saw each ledger until it
// knows enough to cosign.
type vigil struct {
	state   charter.StateID
	key     ed25519.PrivateKey
	pair    *pair
	witness *witness.Witness
	handler http.Handler
	pace    pace
	log     *slog.Logger
	wake    chan struct{}
	started time.Time

	mu   sync.Mutex
	ch   *charter.Charter
	told map[string]string // why a ledger stays frozen, by origin
}

func newVigil(st *state, keys *pair) (*vigil, error) {
	cosigners, _ := keys.under(st.inForce().charter)
	w, err := witness.Open(filepath.Join(st.dir, "witness"), cosigners, st.opts.now)
	if err != nil {
		return nil, err
	}
	v := &vigil{
		state: st.id, key: keys.key, pair: keys, witness: w, handler: w.Handler(),
		pace: st.opts.pace, log: st.log, wake: make(chan struct{}, 1), started: st.opts.now(),
		told: make(map[string]string),
	}
	v.adopt(st.inForce().charter)
	return v, nil
}

// adopt takes the ledgers of the charter in force, the own one left out, and cosigns with the keys that it names.
func (v *vigil) adopt(ch *charter.Charter) {
	cosigners, lacks := v.pair.under(ch)
	if lacks {
		v.log.Error("the charter names an ML-DSA-44 key of this embassy that is not in its folder: what it cosigns counts nothing",
			"charter", ch.Number, "hint", "put "+seedFile+" back from its copy, mode 0600, or have the embassy accredited again")
	}
	v.witness.SetCosigners(cosigners)
	if err := v.witness.SetLogs(v.others(ch)); err != nil {
		v.log.Error("witness: a ledger is not cosigned", "err", err)
	}
	v.mu.Lock()
	v.ch = ch
	v.mu.Unlock()
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

func (v *vigil) others(ch *charter.Charter) []ledger.Log {
	var logs []ledger.Log
	for _, l := range ch.Logs() {
		if !l.Key.Equal(publicOf(v.key)) {
			logs = append(logs, l)
		}
	}
	return logs
}

// frozen lists the ledgers that this witness does not cosign at present.
func (v *vigil) frozen() []string {
	v.mu.Lock()
	ch := v.ch
	v.mu.Unlock()
	origins := []string{}
	for _, l := range v.others(ch) {
		if v.witness.Frozen(l.Origin) {
			origins = append(origins, l.Origin)
		}
	}
	return origins
}

// run rouses the witness until nothing is frozen, and again when the charter
// changes, until ctx ends. Otherwise it sleeps.
func (v *vigil) run(ctx context.Context) {
	rest := v.pace.first
	for ctx.Err() == nil {
		var later <-chan time.Time
		if !v.rouse(ctx) {
			later = time.After(rest)
			rest = min(2*rest, v.pace.last)
		} else {
			rest = v.pace.first
		}
		select {
		case <-ctx.Done():
		case <-later:
		case <-v.wake:
			rest = v.pace.first
		}
	}
}

// rouse asks once for every frozen ledger and tells whether all are thawed, or
// nobody can be asked.
func (v *vigil) rouse(ctx context.Context) bool {
	v.mu.Lock()
	ch := v.ch
	v.mu.Unlock()
	self, ok := ch.EmbassyByID(charter.EmbassyIDOf(publicOf(v.key)))
	policy, err := ch.Policy()
	if !ok || err != nil {
		return true // the next charter wakes it
	}
	origins := v.frozen()
	if len(origins) == 0 {
		return true
	}
	clients := make(map[string]*Client)
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	for _, e := range ch.Embassies {
		if e.ID != self.ID {
			cfg := ConfigFor(e, v.state, v.key)
			cfg.Timeout, cfg.Conns = v.pace.ask, 1
			clients[e.Name] = Dial(cfg)
		}
	}
	var still atomic.Int32
	var asked sync.WaitGroup
	for _, l := range v.others(ch) {
		if !v.witness.Frozen(l.Origin) {
			continue
		}
		asked.Go(func() {
			if err := v.ask(ctx, ch, l, self.Name, policy, clients); err != nil {
				still.Add(1)
				v.tell(ctx, l.Origin, err)
			}
		})
	}
	asked.Wait()
	return still.Load() == 0
}

// tell logs why a ledger stays frozen, once for each reason.
func (v *vigil) tell(ctx context.Context, origin string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ctx.Err() == nil && v.told[origin] != err.Error() {
		v.told[origin] = err.Error()
		v.log.Info("witness: still frozen", "origin", origin, "err", err)
	}
}

// ask rouses the witness for one ledger.
func (v *vigil) ask(ctx context.Context, ch *charter.Charter, l ledger.Log, self string, policy *ledger.Policy, clients map[string]*Client) error {
	operator := clients[l.Member]
	if operator == nil {
		return errors.New("no embassy keeps this ledger")
	}
	var peers []witness.Peer
	for _, e := range ch.Embassies {
		c := clients[e.Name]
		switch {
		case c == nil:
		case e.Name == l.Member:
			peers = append(peers, witness.Peer{Name: e.Name, Seen: func(ctx context.Context, _ string) ([]byte, error) {
				ctx, cancel := context.WithTimeout(ctx, v.pace.ask)
				defer cancel()
				return c.ownWord(ctx)
			}})
		default:
			remote := c.WitnessRemote()
			remote.HTTP = v.patient(remote.HTTP)
			peers = append(peers, witness.Peer{Name: e.Name, Remote: remote})
		}
	}
	for _, w := range ch.Witnesses {
		keys, err := w.Keys()
		if err != nil {
			continue
		}
		if w.URL == "" {
			peers = append(peers, witness.Peer{Name: w.Name, Seen: v.byItself(operator, keys)})
			continue
		}
		client, err := witness.NewClient(w.PublicKey(), v.key)
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		peers = append(peers, witness.Peer{Name: w.Name, Remote: &witness.Remote{Prefix: w.URL, HTTP: v.patient(client), Key: keys}})
	}
	return witness.Rouse(ctx, v.witness, l, peers, policy, self, operator.Consistency)
}

// byItself asks for what a witness saw that nobody can reach: the cosignature
// that it brought to the ledger's own embassy says how far it had seen then. It
// is an answer when it was given after this embassy's start.
func (v *vigil) byItself(operator *Client, keys []ledger.WitnessKey) func(context.Context, string) ([]byte, error) {
	return func(ctx context.Context, _ string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, v.pace.ask)
		defer cancel()
		raw, err := operator.Cosigned(ctx)
		if err != nil {
			return nil, err
		}
		cp, err := ledger.ParseCheckpoint(raw, operator.verifier)
		if err != nil {
			return nil, err
		}
		found, err := ledger.Cosignatures(cp, keys)
		if err != nil || len(found) != len(keys) {
			return nil, errors.Join(errors.New("it has not cosigned this"), err)
		}
		for _, c := range found {
			if c.Time.Before(v.started) {
				return nil, errors.New("it has not come by since")
			}
		}
		return raw, nil
	}
}

// patient waits for one answer as long as a notary does, and no longer: those
// that answered may be enough.
func (v *vigil) patient(c *http.Client) *http.Client {
	p := *c
	p.Timeout = v.pace.ask
	return &p
}

// ownWord is what an embassy says of its own ledger: the newest checkpoint that was cosigned, because it also carries the
// word of those who come by themselves, as home does; else the newest; nil where there is none.
func (c *Client) ownWord(ctx context.Context) ([]byte, error) {
	raw, err := c.Cosigned(ctx)
	if !errors.Is(err, ErrNotFound) {
		return raw, err
	}
	cp, err := c.Checkpoint(ctx)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return cp.Raw, err
}
