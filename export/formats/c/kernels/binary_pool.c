/* The maximum of signs: -1 where all of a window are. `in_channels` are those of the bytes. */
static void fsg_binary_pool(const fsg_window* w, const unsigned char* in, unsigned char* out) {
  const int32_t bytes = w->in_channels / 8;
  int32_t i;
  int y, x, ky, kx, begin_y, end_y, begin_x, end_x;
  for (y = 0; y < w->out_height; ++y) {
    for (x = 0; x < w->out_width; ++x, out += bytes) {
      const int top = y * w->stride_y - w->top, left = x * w->stride_x - w->left;
      fsg_taps(top, 1, w->kernel_height, w->in_height, &begin_y, &end_y);
      fsg_taps(left, 1, w->kernel_width, w->in_width, &begin_x, &end_x);
      for (i = 0; i < bytes; ++i) {
        unsigned all = 0xff;
        for (ky = begin_y; ky < end_y; ++ky)
          for (kx = begin_x; kx < end_x; ++kx) all &= in[((top + ky) * w->in_width + left + kx) * bytes + i];
        out[i] = (unsigned char)all;
      }
    }
  }
}
