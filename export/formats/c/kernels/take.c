/* Of every of `outer` blocks of `length` rows the rows `index`. */
static void fsg_take(const float* from, float* to, int32_t outer, int32_t length, int32_t inner,
                     const int32_t* index, int32_t count) {
  int32_t a, b;
  for (a = 0; a < outer; ++a, from += length * inner)
    for (b = 0; b < count; ++b, to += inner)
      FSG_COPY(to, from + index[b] * inner, (size_t)inner * sizeof(float));
}
