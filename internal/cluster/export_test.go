package cluster

import "time"

// SetPace makes the waits of streams short: how often a status is sent, and how long a silence may be.
func (c *Conn) SetPace(beat, silence time.Duration) { c.beat, c.silence = beat, silence }
