/* The maximum of every window, or its mean, with zeros outside the image. */
static void fsg_pool(const fsg_window* w, const float* in, int is_mean, float* row, const fsg_post* post,
                     int posts) {
  const int32_t channels = w->in_channels;
  const float area = (float)(w->kernel_height * w->kernel_width);
  int32_t pixel = 0, c;
  int y, x, ky, kx, begin_y, end_y, begin_x, end_x;
  for (y = 0; y < w->out_height; ++y) {
    for (x = 0; x < w->out_width; ++x, ++pixel) {
      const int top = y * w->stride_y - w->top, left = x * w->stride_x - w->left;
      int is_first = 1;
      fsg_taps(top, 1, w->kernel_height, w->in_height, &begin_y, &end_y);
      fsg_taps(left, 1, w->kernel_width, w->in_width, &begin_x, &end_x);
      for (ky = begin_y; ky < end_y; ++ky) {
        for (kx = begin_x; kx < end_x; ++kx) {
          const int at = (top + ky) * w->in_width + left + kx;
          const float* const value = in + (size_t)at * (size_t)channels;
          if (is_first)
            FSG_COPY(row, value, (size_t)channels * sizeof(float));
          else if (is_mean)
            for (c = 0; c < channels; ++c) row[c] += value[c];
          else
            for (c = 0; c < channels; ++c) row[c] = row[c] < value[c] ? value[c] : row[c];
          is_first = 0;
        }
      }
      if (is_first) memset(row, 0, (size_t)channels * sizeof(float));
      if (is_mean)
        for (c = 0; c < channels; ++c) row[c] /= area;
      fsg_sweep(post, posts, row, pixel, channels);
    }
  }
}
