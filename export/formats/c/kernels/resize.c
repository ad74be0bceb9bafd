/* Rows and columns `low` and the next, mixed by `share`. */
static void fsg_resize(const float* in, float* to, int32_t height, int32_t width, int32_t channels,
                       int32_t rows, int32_t columns, const int32_t* low_y, const float* share_y,
                       const int32_t* low_x, const float* share_x) {
  int32_t y, x, c;
  for (y = 0; y < rows; ++y) {
    const float* const above = in + low_y[y] * width * channels;
    const float* const below = low_y[y] + 1 < height ? above + width * channels : above;
    for (x = 0; x < columns; ++x, to += channels) {
      const int32_t left = low_x[x] * channels, right = low_x[x] + 1 < width ? left + channels : left;
      for (c = 0; c < channels; ++c) {
        const float p = above[left + c] * (1.0f - share_y[y]) + below[left + c] * share_y[y];
        const float q = above[right + c] * (1.0f - share_y[y]) + below[right + c] * share_y[y];
        to[c] = p * (1.0f - share_x[x]) + q * share_x[x];
      }
    }
  }
}
