/* Post-operations alone, the first of which loads. */
static void fsg_elementwise(int32_t pixels, int32_t channels, float* row, const fsg_post* post, int posts) {
  int32_t pixel;
  for (pixel = 0; pixel < pixels; ++pixel) fsg_sweep(post, posts, row, pixel, channels);
}
