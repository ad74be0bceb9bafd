/* Values in steps of their own on both sides: axes of up to six lengths, with how far apart their values
 * are. */
static void fsg_copy(const float* from, float* to, const int32_t length[6], const int32_t in[6],
                     const int32_t out[6]) {
  int32_t a, b, c, d, e, f;
  for (a = 0; a < length[0]; ++a)
    for (b = 0; b < length[1]; ++b)
      for (c = 0; c < length[2]; ++c)
        for (d = 0; d < length[3]; ++d)
          for (e = 0; e < length[4]; ++e) {
            const float* const x = from + a * in[0] + b * in[1] + c * in[2] + d * in[3] + e * in[4];
            float* const y = to + a * out[0] + b * out[1] + c * out[2] + d * out[3] + e * out[4];
            for (f = 0; f < length[5]; ++f) y[f * out[5]] = x[f * in[5]];
          }
}
