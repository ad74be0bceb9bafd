// Part of kernels_body.h: the maximum of signs, which is -1 only where all are: an AND of the bits.
#ifndef FSG_KERNELS_MAX_POOL_BODY_H_
#define FSG_KERNELS_MAX_POOL_BODY_H_

#include "kernels/vectors_body.h"

// One row of output pixels.
void MaxPoolRow(const Window& w, const uint32_t* image, int y, uint32_t* out) {
  const int64_t row = static_cast<int64_t>(w.in_width) * w.words;
  const int top = y * w.stride_height - w.pad_top;
  const int first_y = top < 0 ? 0 : top;
  const int end_y = top + w.filter_height > w.in_height ? w.in_height : top + w.filter_height;
  for (int x = 0; x < w.out_width; ++x, out += w.words) {
    const int left = x * w.stride_width - w.pad_left;
    const int first_x = left < 0 ? 0 : left;
    const int end_x = left + w.filter_width > w.in_width ? w.in_width : left + w.filter_width;
    for (int i = 0; i < w.words; ++i) out[i] = ~uint32_t{0};
    for (int in_y = first_y; in_y < end_y; ++in_y) {
      for (int in_x = first_x; in_x < end_x; ++in_x) {
        const uint32_t* pixel = image + in_y * row + static_cast<int64_t>(in_x) * w.words;
        for (int i = 0; i < w.words; ++i) out[i] &= pixel[i];
      }
    }
  }
}

void MaxPool(ThreadPool* pool, const Window& w, const uint32_t* in, uint32_t* out) {
  const int64_t image = static_cast<int64_t>(w.in_height) * w.in_width * w.words;
  const int64_t out_row = static_cast<int64_t>(w.out_width) * w.words;
  const int64_t work = out_row * w.filter_height * w.filter_width * 32;
  ParallelFor(pool, static_cast<int64_t>(w.batch) * w.out_height, {1, kValueGrain / work + 1},
              [&](int64_t begin, int64_t end, int) {
                for (int64_t row = begin; row < end; ++row) {
                  MaxPoolRow(w, in + row / w.out_height * image, static_cast<int>(row % w.out_height),
                             out + row * out_row);
                }
              });
}

#endif  // FSG_KERNELS_MAX_POOL_BODY_H_
