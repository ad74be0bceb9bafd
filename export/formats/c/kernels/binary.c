#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the words of weights are little-endian"
#endif

static uint32_t fsg_word(const unsigned char* bytes, int32_t index) {
  uint32_t word;
  FSG_COPY(&word, bytes + (size_t)index * 4, sizeof(word));
  return word;
}

/* For each of `outputs` rows of filters, `words` long, the sum of the products of its signs with those of
 * `a`: of `length`, less twice as many as differ. */
#if defined(__ARM_NEON)
static void fsg_sums(const unsigned char* a, const unsigned char* b, int32_t words, int32_t outputs,
                     int32_t length, float* sum) {
  int32_t o;
  for (o = 0; o < outputs; ++o, b += (size_t)words * 4) {
    uint16x8_t counts = vdupq_n_u16(0);
    uint32_t rest = 0;
    uint64x2_t wide;
    int32_t i = 0;
    while (i + 4 <= words) {
      uint8x16_t bytes = vdupq_n_u8(0);
      const int32_t end = i + 31 * 4 < words ? i + 31 * 4 : words; /* 255 fit into a byte */
      for (; i + 4 <= end; i += 4)
        bytes = vaddq_u8(bytes, vcntq_u8(veorq_u8(vld1q_u8(a + (size_t)i * 4), vld1q_u8(b + (size_t)i * 4))));
      counts = vpadalq_u8(counts, bytes);
    }
    for (; i < words; ++i) rest += (uint32_t)__builtin_popcount(fsg_word(a, i) ^ fsg_word(b, i));
    wide = vpaddlq_u32(vpaddlq_u16(counts));
    rest += (uint32_t)vgetq_lane_u64(wide, 0) + (uint32_t)vgetq_lane_u64(wide, 1);
    sum[o] = (float)(length - 2 * (int32_t)rest);
  }
}
#elif defined(__POPCNT__)
static uint64_t fsg_long(const unsigned char* bytes, int32_t index) {
  uint64_t word;
  FSG_COPY(&word, bytes + (size_t)index * 4, sizeof(word));
  return word;
}

static void fsg_sums(const unsigned char* a, const unsigned char* b, int32_t words, int32_t outputs,
                     int32_t length, float* sum) {
  const size_t row = (size_t)words * 4;
  int32_t o = 0;
  for (; o + 4 <= outputs; o += 4, b += 4 * row) {
    int32_t n0 = 0, n1 = 0, n2 = 0, n3 = 0, i = 0;
    for (; i + 2 <= words; i += 2) {
      const uint64_t x = fsg_long(a, i);
      n0 += __builtin_popcountll(x ^ fsg_long(b, i));
      n1 += __builtin_popcountll(x ^ fsg_long(b + row, i));
      n2 += __builtin_popcountll(x ^ fsg_long(b + 2 * row, i));
      n3 += __builtin_popcountll(x ^ fsg_long(b + 3 * row, i));
    }
    if (i < words) {
      const uint32_t x = fsg_word(a, i);
      n0 += __builtin_popcount(x ^ fsg_word(b, i));
      n1 += __builtin_popcount(x ^ fsg_word(b + row, i));
      n2 += __builtin_popcount(x ^ fsg_word(b + 2 * row, i));
      n3 += __builtin_popcount(x ^ fsg_word(b + 3 * row, i));
    }
    sum[o] = (float)(length - 2 * n0);
    sum[o + 1] = (float)(length - 2 * n1);
    sum[o + 2] = (float)(length - 2 * n2);
    sum[o + 3] = (float)(length - 2 * n3);
  }
  for (; o < outputs; ++o, b += row) {
    int32_t count = 0, i;
    for (i = 0; i < words; ++i) count += __builtin_popcount(fsg_word(a, i) ^ fsg_word(b, i));
    sum[o] = (float)(length - 2 * count);
  }
}
#else
/* Without an instruction that counts: bits are added up in fields of 2, 4 and 8 bits, for all words at once.
 */
static uint32_t fsg_nibbles(uint32_t v) {
  v -= (v >> 1) & 0x55555555u;
  return (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
}

static void fsg_sums(const unsigned char* a, const unsigned char* b, int32_t words, int32_t outputs,
                     int32_t length, float* sum) {
  int32_t o;
  for (o = 0; o < outputs; ++o, b += (size_t)words * 4) {
    uint32_t count = 0;
    int32_t i = 0;
    while (i < words) {
      const int32_t end = i + 30 < words ? i + 30 : words; /* 255 fit into a byte */
      uint32_t bytes = 0;
      for (; i + 3 <= end; i += 3) { /* a full adder makes two words of three */
        const uint32_t x = fsg_word(a, i) ^ fsg_word(b, i), y = fsg_word(a, i + 1) ^ fsg_word(b, i + 1);
        const uint32_t z = fsg_word(a, i + 2) ^ fsg_word(b, i + 2), half = x ^ y;
        const uint32_t ones = fsg_nibbles(half ^ z), twos = fsg_nibbles((x & y) | (half & z));
        bytes += (ones & 0x0f0f0f0fu) + ((ones >> 4) & 0x0f0f0f0fu);
        bytes += ((twos & 0x0f0f0f0fu) + ((twos >> 4) & 0x0f0f0f0fu)) << 1;
      }
      for (; i < end; ++i) {
        const uint32_t v = fsg_nibbles(fsg_word(a, i) ^ fsg_word(b, i));
        bytes += (v & 0x0f0f0f0fu) + ((v >> 4) & 0x0f0f0f0fu);
      }
      bytes = (bytes & 0x00ff00ffu) + ((bytes >> 8) & 0x00ff00ffu);
      count += (bytes & 0xffffu) + (bytes >> 16);
    }
    sum[o] = (float)(length - 2 * (int32_t)count);
  }
}
#endif

/* The signs of a window in a row, 8 channels a byte; outside the image each byte is `outside`. Up to 7 bytes
 * behind what is copied are read and overwritten. */
static void fsg_window_signs(const fsg_window* w, const unsigned char* in, unsigned outside, int y, int x,
                             unsigned char* to, int32_t words) {
  const int32_t pixel = (w->in_channels + 7) / 8, line = pixel * w->kernel_width;
  unsigned char* const end = to + (size_t)words * 4;
  int begin, stop, ky, kx;
  int32_t i;
  fsg_taps(x, w->dilation_x, w->kernel_width, w->in_width, &begin, &stop);
  for (ky = 0; ky < w->kernel_height; ++ky) {
    const int in_y = y + ky * w->dilation_y;
    const int is_row = in_y >= 0 && in_y < w->in_height;
    const unsigned char* from = in + (is_row ? (in_y * w->in_width + x) * pixel : 0);
    if (is_row && stop - begin == w->kernel_width && w->dilation_x == 1) {
      for (i = 0; i < line; i += 4) {
        const uint32_t four = fsg_word(from + i, 0);
        FSG_COPY(to + i, &four, sizeof(four));
      }
      to += line;
      continue;
    }
    for (kx = 0; kx < w->kernel_width; ++kx, to += pixel) {
      if (is_row && kx >= begin && kx < stop) {
        FSG_COPY(to, from + kx * w->dilation_x * pixel, (size_t)pixel);
      } else {
        memset(to, (int)outside, (size_t)pixel);
        if (w->in_channels % 8 != 0) to[pixel - 1] &= (unsigned char)((1u << (w->in_channels % 8)) - 1u);
      }
    }
  }
  while (to < end) *to++ = 0;
}

#ifdef FSG_ZERO_PADDING
/* The sums at a pixel where part of the window is outside, which counts nothing. */
static void fsg_partial_sums(const fsg_window* w, const unsigned char* a, const unsigned char* b,
                             int32_t words, int y, int x, float* sum) {
  const int32_t pixel = (w->in_channels + 7) / 8;
  int32_t o, i;
  int ky, kx, begin_y, end_y, begin_x, end_x;
  fsg_taps(y, w->dilation_y, w->kernel_height, w->in_height, &begin_y, &end_y);
  fsg_taps(x, w->dilation_x, w->kernel_width, w->in_width, &begin_x, &end_x);
  for (o = 0; o < w->out_channels; ++o, b += (size_t)words * 4) {
    int32_t differing = 0;
    for (ky = begin_y; ky < end_y; ++ky) {
      for (kx = begin_x; kx < end_x; ++kx) {
        const int32_t at = (ky * w->kernel_width + kx) * pixel;
        for (i = at; i < at + pixel; ++i) {
          unsigned wrong = (unsigned)(a[i] ^ b[i]);
          for (; wrong != 0; wrong &= wrong - 1u) ++differing;
        }
      }
    }
    sum[o] = (float)((end_y - begin_y) * (end_x - begin_x) * w->in_channels - 2 * differing);
  }
}
#endif

/* Binary convolution: the rows of `filters` hold a sign for each tap and channel. The sums, as floats, go
 * through the post-operations. Outside the image there are signs; with `zeros` there is nothing. */
static void fsg_binary_convolution(const fsg_window* w, const unsigned char* in, const uint32_t* filters,
                                   unsigned outside, int zeros, float* row, unsigned char* signs,
                                   const fsg_post* post, int posts) {
  const int32_t taps = w->kernel_height * w->kernel_width, length = taps * w->in_channels;
  const int32_t words = (taps * ((w->in_channels + 7) / 8) + 3) / 4;
  const unsigned char* const first = (const unsigned char*)filters;
  int y, x;
  int32_t pixel = 0;
  (void)zeros;
  for (y = 0; y < w->out_height; ++y) {
    for (x = 0; x < w->out_width; ++x, ++pixel) {
      const int top = y * w->stride_y - w->top, left = x * w->stride_x - w->left;
      fsg_window_signs(w, in, outside, top, left, signs, words);
#ifdef FSG_ZERO_PADDING
      if (zeros && (top < 0 || left < 0 || top + (w->kernel_height - 1) * w->dilation_y >= w->in_height ||
                    left + (w->kernel_width - 1) * w->dilation_x >= w->in_width))
        fsg_partial_sums(w, signs, first, words, top, left, row);
      else
#endif
        fsg_sums(signs, first, words, w->out_channels, length, row);
      fsg_sweep(post, posts, row, pixel, w->out_channels);
    }
  }
}
