static void fsg_softmax(const float* x, float* to, int32_t rows, int32_t length, int is_log) {
  int32_t row, i;
  for (row = 0; row < rows; ++row, x += length, to += length) {
    float most = x[0], sum = 0.0f;
    for (i = 1; i < length; ++i) most = most < x[i] ? x[i] : most;
    for (i = 0; i < length; ++i) sum += expf(x[i] - most);
    for (i = 0; i < length; ++i) to[i] = is_log ? x[i] - most - logf(sum) : expf(x[i] - most) / sum;
  }
}
