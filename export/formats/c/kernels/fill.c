static void fsg_fill(float* to, int32_t count, float value) {
  int32_t i;
  for (i = 0; i < count; ++i) to[i] = value;
}
