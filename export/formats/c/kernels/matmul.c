/* [rows][inner] times [inner][columns]. */
static void fsg_matmul(const float* x, const float* y, float* to, int32_t rows, int32_t inner,
                       int32_t columns) {
  int32_t row, i, c;
  for (row = 0; row < rows; ++row, x += inner, to += columns) {
    for (c = 0; c < columns; ++c) to[c] = 0.0f;
    for (i = 0; i < inner; ++i)
      for (c = 0; c < columns; ++c) to[c] += x[i] * y[i * columns + c];
  }
}
