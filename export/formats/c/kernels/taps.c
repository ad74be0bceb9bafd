/* From which tap on, and before which, a window's row or column lies within an image of `size`. */
static void fsg_taps(int origin, int dilation, int taps, int size, int* begin, int* end) {
  int first = 0, last = taps;
  while (first < last && origin + first * dilation < 0) ++first;
  while (last > first && origin + (last - 1) * dilation >= size) --last;
  *begin = first;
  *end = last;
}
