/* Two values, each with steps of its own along four axes. */
static void fsg_broadcast(int does, const float* x, const float* y, float* to, const int32_t length[4],
                          const int32_t in_x[4], const int32_t in_y[4]) {
  int32_t a, b, c, d;
  for (a = 0; a < length[0]; ++a)
    for (b = 0; b < length[1]; ++b)
      for (c = 0; c < length[2]; ++c)
        for (d = 0; d < length[3]; ++d, ++to) {
          const float p = x[a * in_x[0] + b * in_x[1] + c * in_x[2] + d * in_x[3]];
          const float q = y[a * in_y[0] + b * in_y[1] + c * in_y[2] + d * in_y[3]];
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
