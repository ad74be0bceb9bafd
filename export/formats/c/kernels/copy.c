/* Values in steps of their own on both sides: axes of up to four lengths, with how far apart their values
 * are. */
static void fsg_copy(const float* from, float* to, const int32_t length[4], const int32_t in[4],
                     const int32_t out[4]) {
  int32_t a, b, c, d;
  for (a = 0; a < length[0]; ++a)
    for (b = 0; b < length[1]; ++b)
      for (c = 0; c < length[2]; ++c) {
        const float* const x = from + a * in[0] + b * in[1] + c * in[2];
        float* const y = to + a * out[0] + b * out[1] + c * out[2];
        for (d = 0; d < length[3]; ++d) y[d * out[3]] = x[d * in[3]];
      }
}
