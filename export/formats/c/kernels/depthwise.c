/* Every channel is convolved by itself, into `out_channels / in_channels` others; weights are [tap][output].
 */
static void fsg_depthwise(const fsg_window* w, const float* in, const float* weights, const float* bias,
                          float* row, const fsg_post* post, int posts) {
  const int32_t outputs = w->out_channels, each = w->out_channels / w->in_channels;
  int32_t pixel = 0, c, m;
  int y, x, ky, kx, begin_y, end_y, begin_x, end_x;
  for (y = 0; y < w->out_height; ++y) {
    for (x = 0; x < w->out_width; ++x, ++pixel) {
      const int top = y * w->stride_y - w->top, left = x * w->stride_x - w->left;
      fsg_taps(top, w->dilation_y, w->kernel_height, w->in_height, &begin_y, &end_y);
      fsg_taps(left, w->dilation_x, w->kernel_width, w->in_width, &begin_x, &end_x);
      FSG_COPY(row, bias, (size_t)outputs * sizeof(float));
      for (ky = begin_y; ky < end_y; ++ky) {
        for (kx = begin_x; kx < end_x; ++kx) {
          const int at = (top + ky * w->dilation_y) * w->in_width + left + kx * w->dilation_x;
          const float* const value = in + (size_t)at * (size_t)w->in_channels;
          const float* const weight = weights + (ky * w->kernel_width + kx) * outputs;
          if (each == 1) {
            for (c = 0; c < outputs; ++c) row[c] += value[c] * weight[c];
            continue;
          }
          for (c = 0; c < w->in_channels; ++c)
            for (m = 0; m < each; ++m) row[c * each + m] += value[c] * weight[c * each + m];
        }
      }
      fsg_sweep(post, posts, row, pixel, outputs);
    }
  }
}
