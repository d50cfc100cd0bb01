package order

import (
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/vectest"
)

// hardware is a test key, by its number, in a hardware key: flags 1 is touched, 0 is not.
func hardware(key uint64, flags byte) vectest.Hardware {
	return vectest.Hardware{Key: testKey(key), Flags: flags}
}

func signed(t testing.TB, namespace string, doc []byte, keys ...uint64) (all []byte) {
	t.Helper()
	for _, n := range keys {
		sig, err := charter.SignIn(namespace, doc, testKey(n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sig...)
	}
	return all
}
