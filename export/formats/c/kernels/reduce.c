/* Sums (0), means (1) or maxima (2) over the axes along which `out` is 0; `count` values become one. */
static void fsg_reduce(int does, const float* from, float* to, int32_t results, int32_t count,
                       const int32_t length[6], const int32_t out[6]) {
  int32_t a, b, c, d, e, f;
  for (a = 0; a < results; ++a) to[a] = does == 2 ? -FLT_MAX : 0.0f;
  for (a = 0; a < length[0]; ++a)
    for (b = 0; b < length[1]; ++b)
      for (c = 0; c < length[2]; ++c)
        for (d = 0; d < length[3]; ++d)
          for (e = 0; e < length[4]; ++e) {
            float* const y = to + a * out[0] + b * out[1] + c * out[2] + d * out[3] + e * out[4];
            for (f = 0; f < length[5]; ++f, ++from) {
              float* const one = y + f * out[5];
              if (does == 2)
                *one = *one < *from ? *from : *one;
              else
                *one += *from;
            }
          }
  if (does == 1)
    for (a = 0; a < results; ++a) to[a] /= (float)count;
}
