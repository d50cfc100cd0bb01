package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/transparency-dev/tessera/api/layout"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

func witnessServe(u *ui) *cobra.Command {
	var o witnessOptions
	c := &cobra.Command{
		Use: "serve", Short: "Serve a witness until interrupted", Args: cobra.NoArgs,
		Long: "Cosigns the ledgers of the charters' embassies (the signature lies beside each charter, CHARTER.sig), and other\n" +
			"logs by their verifier key. It speaks C2SP tlog-witness over plain HTTP, as all that it says is signed and public,\n" +
			"or over TLS by its own key.\n\n" +
			"A newer charter that the embassies have, signed under the one that it has, it takes over as it runs.\n\n" +
			"After a start it cosigns nothing of a log until the other witnesses of the charter told it how far they saw it,\n" +
			"because its own folder may be yesterday's. Where nobody can be asked, a person decides: witness thaw for one\n" +
			"log and one start, or --alone for all, if the folder was certainly not put back from a copy.",
		Example: "  chancery witness serve --dir W --charter charter.yaml --listen 127.0.0.1:7480",
	}
	dir := witnessDir(c)
	c.Flags().StringArrayVar(&o.charters, "charter", nil, "a charter whose embassies' ledgers it cosigns; may be given again")
	c.Flags().StringArrayVar(&o.logs, "log", nil, "verifier key of another log that it cosigns; may be given again")
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:7480", "address to listen at; port 0 takes a free one")
	c.Flags().BoolVar(&o.tls, "tls", false, "serve HTTPS, TLS 1.3, with the witness's own key")
	c.Flags().BoolVar(&o.alone, "alone", false, "there is nobody to ask: cosign from the start")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if len(o.charters)+len(o.logs) == 0 {
			return usageError(c, errors.New("which logs? name a --charter or a --log"))
		}
		f, err := witness.Load(*dir)
		if err != nil {
			return err
		}
		s := &vigil{ui: u, folder: f, log: slog.New(slog.NewTextHandler(u.err, nil))}
		if err := s.read(&o); err != nil {
			return err
		}
		return s.serve(c.Context(), &o)
	}
	return c
}

// witnessOptions are those of witness serve.
type witnessOptions struct {
	charters, logs []string
	listen         string
	tls, alone     bool
}

// vigil is a witness that serves.
type vigil struct {
	ui      *ui
	folder  *witness.Folder
	log     *slog.Logger
	witness *witness.Witness
	states  []*ward
	foreign []ledger.Log
}

// ward is one state whose ledgers are cosigned.
type ward struct {
	charter *charter.Charter
	policy  *ledger.Policy
	self    string // the witness's name in the charter; empty where it is not in it
	clients map[string]*embassy.Client
	peers   map[string]*witness.Remote
	cancel  context.CancelFunc // of the questions under way; nil before there are any
}

// read reads what is to be cosigned.
func (s *vigil) read(o *witnessOptions) error {
	for _, path := range o.charters {
		doc, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sig, err := os.ReadFile(path + ".sig")
		if err != nil {
			return hinted(err, "the charter's signature belongs beside it: "+path+".sig")
		}
		ch, err := charter.Parse(doc)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := ch.Verify(sig); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if newer := s.newest(ch); newer != ch {
			s.log.Info("a newer charter than this is in force", "charter", path, "number", newer.Number)
			ch = newer
		}
		w, err := newWard(ch, s.folder.Key)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if w.self == "" {
			s.log.Warn("the charter does not name this witness: its cosignatures do not count and embassies do not answer it",
				"charter", path, "name", s.folder.Name)
		}
		s.states = append(s.states, w)
	}
	for _, vkey := range o.logs {
		l, err := openLogVKey(vkey)
		if err != nil {
			return &failure{err: fmt.Errorf("--log: %w", err), code: exitUsage, hint: "take the key with which that log signs its checkpoints, as its operator publishes it"}
		}
		s.foreign = append(s.foreign, l)
	}
	return nil
}

// newWard finds the witness in the charter, and the ways to the others in it.
func newWard(ch *charter.Charter, key ed25519.PrivateKey) (*ward, error) {
	w := &ward{charter: ch, clients: map[string]*embassy.Client{}, peers: map[string]*witness.Remote{}}
	policy, err := ch.Policy()
	if err != nil {
		return nil, err
	}
	w.policy = policy
	public := ed25519.PublicKey(key[32:])
	for _, e := range ch.Embassies {
		x := dial(e, ch.State.ID, key)
		w.clients[e.Name], w.peers[e.Name] = x, x.WitnessRemote()
	}
	for _, x := range ch.Witnesses {
		if x.PublicKey().Equal(public) {
			w.self = x.Name
			continue
		}
		keys, err := x.Keys()
		if err != nil {
			return nil, err
		}
		if x.URL == "" {
			continue // comes by itself, and cannot be asked
		}
		client, err := witness.NewClient(x.PublicKey(), key)
		if err != nil {
			return nil, err
		}
		w.peers[x.Name] = &witness.Remote{Prefix: x.URL, HTTP: client, Key: keys}
	}
	return w, nil
}

// ask asks the others how far they saw one ledger, once.
func (w *ward) ask(ctx context.Context, own *witness.Witness, l ledger.Log) error {
	operator := w.clients[l.Member]
	peers := []witness.Peer{{Name: l.Member, Seen: func(ctx context.Context, _ string) ([]byte, error) {
		cp, err := operator.Checkpoint(ctx)
		return cp.Raw, err
	}}}
	// The cosigned checkpoint brings the word of those who come by themselves, as home does. It is nobody's own answer.
	peers = append(peers, witness.Peer{Name: "the cosigned checkpoint of " + l.Member, Seen: func(ctx context.Context, _ string) ([]byte, error) {
		raw, err := operator.Cosigned(ctx)
		if errors.Is(err, embassy.ErrNotFound) {
			return nil, nil
		}
		return raw, err
	}})
	for name, remote := range w.peers {
		if name != l.Member {
			peers = append(peers, witness.Peer{Name: name, Remote: remote})
		}
	}
	return witness.Rouse(ctx, own, l, peers, w.policy, w.self, func(ctx context.Context, from, to ledger.Checkpoint) ([][32]byte, error) {
		prover, err := ledger.NewProver(to.Size, func(t ledger.Tile) ([]byte, error) {
			partial := uint8(t.Width % layout.TileWidth)
			return operator.Tile(ctx, layout.TilePath(uint64(t.Level), t.Index, partial))
		})
		if err != nil {
			return nil, err
		}
		return prover.Consistency(from.Size)
	})
}

// serve opens the folder and answers until ctx ends.
func (s *vigil) serve(ctx context.Context, o *witnessOptions) error {
	unlock, err := s.folder.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if s.witness, err = witness.Open(s.folder.Dir, s.folder.Cosigners, time.Now); err != nil {
		return err
	}
	logs := s.logs()
	if err := s.witness.SetLogs(logs); err != nil {
		s.log.Error("a log is not cosigned: its file in the folder is unreadable", "err", err)
	}
	for _, l := range logs {
		if err := s.allowed(l.Origin, o.alone); err != nil {
			return err
		}
	}
	var cfg *tls.Config
	scheme := "http"
	if o.tls {
		scheme = "https"
		if cfg, err = witness.ServerTLS(s.folder.Key); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return hinted(err, "another address: --listen 127.0.0.1:0")
	}
	if err := s.sayWhere(scheme + "://" + ln.Addr().String()); err != nil {
		return errors.Join(err, ln.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	s.rouse(ctx, &wait)
	wait.Go(func() { s.follow(ctx, &wait) })
	return s.witness.Serve(ctx, ln, cfg, s.log)
}

// allowed thaws a log where a person said so.
func (s *vigil) allowed(origin string, alone bool) error {
	word, err := s.folder.TakeThaw(origin)
	if err != nil {
		return err
	}
	if !word && !alone {
		return nil
	}
	if err := s.witness.Thaw(origin); err != nil && !errors.Is(err, witness.ErrDamaged) {
		return err
	}
	return nil
}

// sayWhere prints where the witness serves.
func (s *vigil) sayWhere(address string) error {
	vkeys := vkeysOf(s.folder.Keys())
	if !s.ui.json {
		_, err := fmt.Fprintf(s.ui.out, "serving at %s as %s\n", address, s.folder.Name)
		return err
	}
	b, err := json.Marshal(map[string]any{"url": address, "cosigner": s.folder.Name, "vkeys": vkeys})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.ui.out, "%s\n", b)
	return err
}

// rouse goes on asking for each frozen log until it is thawed or ctx ends.
func (s *vigil) rouse(ctx context.Context, wait *sync.WaitGroup) {
	for _, l := range s.foreign {
		if s.witness.Frozen(l.Origin) {
			s.log.Warn("frozen: no charter names anybody to ask about this log; see witness thaw and --alone", "log", l.Origin)
		}
	}
	for _, w := range s.states {
		s.rouseWard(ctx, w, wait)
	}
}

// rouseWard does so for the logs of one state, for as long as its charter is in force.
func (s *vigil) rouseWard(ctx context.Context, w *ward, wait *sync.WaitGroup) {
	ctx, w.cancel = context.WithCancel(ctx)
	for _, l := range w.charter.Logs() {
		wait.Go(func() { s.rouseLog(ctx, w, l) })
	}
}

const (
	rouseFirst = time.Second
	rouseMost  = 10 * time.Second
)

func (s *vigil) rouseLog(ctx context.Context, w *ward, l ledger.Log) {
	for pause := rouseFirst; s.witness.Frozen(l.Origin); pause = min(2*pause, rouseMost) {
		err := w.ask(ctx, s.witness, l)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, witness.ErrForked):
			s.log.Error("the log signed two histories; both checkpoints are in conflicts", "log", l.Origin, "embassy", l.Member, "err", err)
			return
		case errors.Is(err, witness.ErrDamaged):
			return
		case err != nil:
			s.log.Warn("frozen: the others were asked and will be again", "log", l.Origin, "embassy", l.Member, "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			continue
		}
		s.log.Info("cosigning", "log", l.Origin, "embassy", l.Member)
	}
}
