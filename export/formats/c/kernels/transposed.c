/* Transposed convolution with weights [tap][input][output]: every pixel adds its multiple of the kernel. */
static void fsg_transposed(const fsg_window* w, const float* in, const float* weights, const float* bias,
                           float* to) {
  const int32_t outputs = w->out_channels;
  int32_t o, c;
  int y, x, ky, kx;
  for (y = 0; y < w->out_height * w->out_width; ++y)
    FSG_COPY(to + y * outputs, bias, (size_t)outputs * sizeof(float));
  for (y = 0; y < w->in_height; ++y)
    for (x = 0; x < w->in_width; ++x, in += w->in_channels)
      for (ky = 0; ky < w->kernel_height; ++ky)
        for (kx = 0; kx < w->kernel_width; ++kx) {
          const int out_y = y * w->stride_y - w->top + ky, out_x = x * w->stride_x - w->left + kx;
          float* const pixel = to + (out_y * w->out_width + out_x) * outputs;
          const float* weight = weights + (size_t)((ky * w->kernel_width + kx) * w->in_channels * outputs);
          if (out_y < 0 || out_y >= w->out_height || out_x < 0 || out_x >= w->out_width) continue;
          for (c = 0; c < w->in_channels; ++c, weight += outputs)
            for (o = 0; o < outputs; ++o) pixel[o] += in[c] * weight[o];
        }
}
