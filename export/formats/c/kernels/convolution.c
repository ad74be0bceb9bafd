/* How many pixels and channels are computed at once: as many as registers hold. */
#if defined(__AVX__) || defined(__aarch64__)
#define FSG_PIXELS 4
#define FSG_LANES 16
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define FSG_PIXELS 4
#define FSG_LANES 8
#else
#define FSG_PIXELS 1
#define FSG_LANES 8
#endif

/* Clang takes the sum of a product for one operation where the processor has it, gcc in ISO C has to be told.
 */
#if (defined(__FMA__) || defined(__ARM_FEATURE_FMA)) && defined(__GNUC__) && !defined(__clang__)
#define FSG_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FSG_FMA(a, b, c) ((a) * (b) + (c))
#endif

/* Adds to the sums of some pixels and channels what `run` values of the input, `apart` from pixel to pixel,
 * contribute. Weights are [run][outputs]. */
#define FSG_PRODUCTS(type)                                                                                   \
  for (i = 0; i < run; ++i) {                                                                                \
    const type* const weight = (const type*)weights + at + (size_t)i * (size_t)outputs;                      \
    for (p = 0; p < pixels; ++p) {                                                                           \
      const float value = x[p * apart + i];                                                                  \
      for (lane = 0; lane < lanes; ++lane) sum[p][lane] = FSG_FMA(value, (float)weight[lane], sum[p][lane]); \
    }                                                                                                        \
  }
static inline void fsg_products(float sum[FSG_PIXELS][FSG_LANES], int pixels, int lanes, const float* x,
                                int32_t apart, int32_t run, const void* weights, int is_int8, size_t at,
                                int32_t outputs) {
  int32_t i;
  int p, lane;
#ifdef FSG_INT8
  if (is_int8) {
    FSG_PRODUCTS(int8_t)
    return;
  }
#endif
  (void)is_int8;
  FSG_PRODUCTS(float)
}

static inline void fsg_convolve_block(const fsg_window* w, const float* in, const void* weights,
                                      const float* steps, const float* bias, int pixels, int lanes, int y,
                                      int x, int32_t o, float* row) {
  const int32_t outputs = w->out_channels, channels = w->in_channels;
  const int top = y * w->stride_y - w->top, left = x * w->stride_x - w->left;
  float sum[FSG_PIXELS][FSG_LANES];
  int p, lane, ky, kx, begin_y, end_y, begin_x, end_x;
  for (p = 0; p < pixels; ++p)
    for (lane = 0; lane < lanes; ++lane) sum[p][lane] = steps != NULL ? 0.0f : bias[o + lane];
  fsg_taps(top, w->dilation_y, w->kernel_height, w->in_height, &begin_y, &end_y);
  fsg_taps(left, w->dilation_x, w->kernel_width, w->in_width, &begin_x, &end_x);
  for (ky = begin_y; ky < end_y; ++ky) {
    const float* const line = in + (size_t)((top + ky * w->dilation_y) * w->in_width) * (size_t)channels;
    /* Neighbouring taps are one run of values. */
    const int taps = w->dilation_x == 1 ? end_x - begin_x : 1;
    for (kx = begin_x; kx < end_x; kx += taps) {
      const size_t at = (size_t)((ky * w->kernel_width + kx) * channels) * (size_t)outputs + (size_t)o;
      const float* const from = line + (left + kx * w->dilation_x) * channels;
      fsg_products(sum, pixels, lanes, from, w->stride_x * channels, taps * channels, weights, steps != NULL,
                   at, outputs);
    }
  }
  for (p = 0; p < pixels; ++p)
    for (lane = 0; lane < lanes; ++lane) {
      const float value = sum[p][lane];
      row[p * outputs + o + lane] = steps != NULL ? value * steps[o + lane] + bias[o + lane] : value;
    }
}

/* Convolution of floats with weights [tap][input][output]; a dense layer is one of a single pixel. With
 * `steps`, one for each output, the weights are int8. */
static void fsg_convolution(const fsg_window* w, const float* in, const void* weights, const float* steps,
                            const float* bias, float* row, const fsg_post* post, int posts) {
  const int32_t outputs = w->out_channels;
  const int reach = (w->kernel_width - 1) * w->dilation_x;
  int32_t pixel = 0, o;
  int y, x, p;
  for (y = 0; y < w->out_height; ++y) {
    for (x = 0; x < w->out_width;) {
      const int left = x * w->stride_x - w->left, right = left + (FSG_PIXELS - 1) * w->stride_x + reach;
      const int pixels = left >= 0 && right < w->in_width && x + FSG_PIXELS <= w->out_width ? FSG_PIXELS : 1;
      for (o = 0; o + FSG_LANES <= outputs; o += FSG_LANES) {
        if (pixels == FSG_PIXELS)
          fsg_convolve_block(w, in, weights, steps, bias, FSG_PIXELS, FSG_LANES, y, x, o, row);
        else
          fsg_convolve_block(w, in, weights, steps, bias, 1, FSG_LANES, y, x, o, row);
      }
      if (o < outputs)
        fsg_convolve_block(w, in, weights, steps, bias, pixels, (int)(outputs - o), y, x, o, row);
      for (p = 0; p < pixels; ++p, ++x, ++pixel) fsg_sweep(post, posts, row + p * outputs, pixel, outputs);
    }
  }
}
