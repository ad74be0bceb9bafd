/* Two values, each with steps of its own along six axes. */
static void fsg_broadcast(int does, const float* x, const float* y, float* to, const int32_t length[6],
                          const int32_t in_x[6], const int32_t in_y[6]) {
  int32_t a, b, c, d, e, f;
  for (a = 0; a < length[0]; ++a)
    for (b = 0; b < length[1]; ++b)
      for (c = 0; c < length[2]; ++c)
        for (d = 0; d < length[3]; ++d)
          for (e = 0; e < length[4]; ++e) {
            const float* const u = x + a * in_x[0] + b * in_x[1] + c * in_x[2] + d * in_x[3] + e * in_x[4];
            const float* const v = y + a * in_y[0] + b * in_y[1] + c * in_y[2] + d * in_y[3] + e * in_y[4];
            for (f = 0; f < length[5]; ++f, ++to) {
              const float p = u[f * in_x[5]], q = v[f * in_y[5]];
              switch (does) {
                case 0:
                  *to = p + q;
                  break;
                case 1:
                  *to = p - q;
                  break;
                case 2:
                  *to = p * q;
                  break;
                case 3:
                  *to = p / q;
                  break;
                case 4:
                  *to = p < q ? q : p;
                  break;
                case 5:
                  *to = q < p ? q : p;
                  break;
                default:
                  *to = p < 0.0f ? p * q : p;
                  break;
              }
            }
          }
}
