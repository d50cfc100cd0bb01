package custody

// Arithmetic in GF(2^8) with the polynomial x^8 + x^4 + x^3 + x + 1. No table
// and no branch depends on a value, so time tells nothing about a secret.

// mul returns the product of a and b.
func mul(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)       // add a where the low bit of b is set
		a = a<<1 ^ 0x1b&-(a>>7) // a times x, reduced
		b >>= 1
	}
	return p
}

// inv returns a^254, which is 1/a for every a but 0, and 0 for 0.
func inv(a byte) byte {
	b := mul(a, a)   // 2
	c := mul(a, b)   // 3
	b = mul(c, c)    // 6
	b = mul(b, b)    // 12
	c = mul(b, c)    // 15
	b = mul(b, b)    // 24
	b = mul(b, b)    // 48
	b = mul(b, c)    // 63
	b = mul(b, b)    // 126
	b = mul(a, b)    // 127
	return mul(b, b) // 254
}

// evaluate returns the value at x of the polynomial with these coefficients,
// the constant first.
func evaluate(coefficients []byte, x byte) byte {
	var y byte
	for i := len(coefficients) - 1; i >= 0; i-- {
		y = mul(y, x) ^ coefficients[i]
	}
	return y
}

// weights returns the Lagrange weight of each of the points xs for the value
// at the point at. The points are distinct and at is none of them.
func weights(xs []byte, at byte) []byte {
	w := make([]byte, len(xs))
	for i, xi := range xs {
		num, den := byte(1), byte(1)
		for j, xj := range xs {
			if j != i {
				num = mul(num, at^xj)
				den = mul(den, xi^xj)
			}
		}
		w[i] = mul(num, inv(den))
	}
	return w
}

// interpolate returns the value at the point at of the polynomial through the
// given points, for each byte of the values alone.
func interpolate(xs []byte, values []*[32]byte, at byte) *[32]byte {
	out := new([32]byte)
	for i, w := range weights(xs, at) {
		for b := range out {
			out[b] ^= mul(w, values[i][b])
		}
	}
	return out
}
