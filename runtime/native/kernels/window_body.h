// Part of kernels_body.h: where a sliding window lies over an image.
#ifndef FSG_KERNELS_WINDOW_BODY_H_
#define FSG_KERNELS_WINDOW_BODY_H_

// An output pixel.
struct Place {
  int batch, y, x;
};

inline Place PlaceOf(const Window& w, int64_t pixel) {
  const int64_t row = pixel / w.out_width;
  return {static_cast<int>(row / w.out_height), static_cast<int>(row % w.out_height),
          static_cast<int>(pixel % w.out_width)};
}

inline Place NextRow(const Window& w, Place at) {
  return at.y + 1 < w.out_height ? Place{at.batch, at.y + 1, 0} : Place{at.batch + 1, 0, 0};
}

// The first tap of `count`, and the one after the last, that lie in [0, size).
struct Taps {
  int begin, end;
};

inline Taps TapsInside(int start, int step, int count, int size) {
  Taps taps = {0, count};
  while (taps.begin < count && start + taps.begin * step < 0) ++taps.begin;
  while (taps.end > taps.begin && start + (taps.end - 1) * step >= size) --taps.end;
  return taps;
}

#endif  // FSG_KERNELS_WINDOW_BODY_H_
