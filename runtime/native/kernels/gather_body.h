// Part of kernels_body.h: copies the bits under the filter at some output pixels, their patches.
#ifndef FSG_KERNELS_GATHER_BODY_H_
#define FSG_KERNELS_GATHER_BODY_H_

#include "kernels/window_body.h"

// A window with what the walk over its output pixels needs at every step.
struct Walk {
  Window w;
  int64_t pixel_bytes, row_bytes, image_bytes;
  int last_top;                  // where a filter still lies inside, as it does from column
  int begin_inside, end_inside;  // begin_inside up to end_inside of the output
  // A filter lies over `rows` rows of `runs` runs each: taps side by side make one run.
  int64_t tap_bytes, run_bytes, runs, run_step, rows, row_step;
  bool joins_taps;  // a run is a row of the filter
};

inline Walk WalkOver(const Conv& conv, const ConvPlan& plan) {
  Walk walk = {};
  const Window& w = walk.w = conv.window;
  walk.pixel_bytes = int64_t{4} * w.words;
  walk.row_bytes = w.in_width * walk.pixel_bytes;
  walk.image_bytes = w.in_height * walk.row_bytes;
  walk.last_top = w.in_height - 1 - (w.filter_height - 1) * w.dilation_height;
  const int last_left = w.in_width - 1 - (w.filter_width - 1) * w.dilation_width;
  walk.begin_inside = (w.pad_left + w.stride_width - 1) / w.stride_width;
  walk.end_inside = last_left + w.pad_left < 0 ? 0 : (last_left + w.pad_left) / w.stride_width + 1;
  walk.tap_bytes = walk.run_bytes = plan.tap_bytes;
  walk.runs = w.filter_width, walk.run_step = w.dilation_width * walk.pixel_bytes;
  walk.rows = w.filter_height, walk.row_step = w.dilation_height * walk.row_bytes;
  walk.joins_taps = w.dilation_width == 1 && walk.tap_bytes == walk.pixel_bytes;
  if (walk.joins_taps) {
    walk.run_bytes *= walk.runs;
    walk.runs = walk.rows, walk.run_step = walk.row_step;
    walk.rows = 1;
  }
  return walk;
}

// memcpy in pieces of `piece` bytes of a run at least as long; the last piece may overlap the one before.
// Runs of pieces below 16 bytes are no longer than two, those of 2 bytes no longer than one.
template <int piece, bool is_long>
inline void CopyRun(const uint8_t* from, int64_t bytes, uint8_t* to) {
  const int64_t last = bytes - piece;
  __builtin_memcpy(to, from, piece);
  if (is_long) {
    for (int64_t i = piece; i < last; i += piece) __builtin_memcpy(to + i, from + i, piece);
  }
  if (piece > 2) __builtin_memcpy(to + last, from + last, piece);
}

// `known_runs` is the number of runs, or 0 if it is not known.
template <int piece, bool is_long, int known_runs>
inline void CopyPatches(const Walk& walk, const uint8_t* from, int count, uint8_t* to, int64_t patch_bytes) {
  // In registers: for all the compiler knows, a byte written to a patch might change the walk.
  const int64_t bytes = walk.run_bytes, runs = walk.runs, run_step = walk.run_step;
  const int64_t rows = walk.rows, row_step = walk.row_step, step = walk.w.stride_width * walk.pixel_bytes;
  for (; count > 0; --count, from += step, to += patch_bytes) {
    const uint8_t* row = from;
    uint8_t* at = to;
    for (int64_t r = rows; r > 0; --r, row += row_step) {
#pragma clang loop unroll(full)
      for (int i = 0; i < known_runs; ++i, at += bytes)
        CopyRun<piece, is_long>(row + i * run_step, bytes, at);
      if (known_runs > 0) continue;
      const uint8_t* run = row;
      FSG_SHORT_LOOP
      for (int64_t i = runs; i > 0; --i, run += run_step, at += bytes)
        CopyRun<piece, is_long>(run, bytes, at);
    }
  }
}

template <int piece, bool is_long = false>
FSG_INLINE void CopyPatches(const Walk& walk, const uint8_t* from, int count, uint8_t* to,
                            int64_t patch_bytes) {
  walk.runs == 3  // of a 3x3 filter, as most are
      ? CopyPatches<piece, is_long, 3>(walk, from, count, to, patch_bytes)
      : CopyPatches<piece, is_long, 0>(walk, from, count, to, patch_bytes);
}

// The patches of `count` output pixels side by side whose filters lie inside; `from` is the first one's
// corner.
FSG_OUTLINE void GatherInside(const Walk& walk, const uint8_t* from, int count, uint8_t* to,
                              int64_t patch_bytes) {
  if (walk.run_bytes > 32) {
    CopyPatches<16, true>(walk, from, count, to, patch_bytes);
  } else if (walk.run_bytes >= 16) {
    CopyPatches<16>(walk, from, count, to, patch_bytes);
  } else if (walk.run_bytes >= 8) {
    CopyPatches<8>(walk, from, count, to, patch_bytes);
  } else if (walk.run_bytes >= 4) {
    CopyPatches<4>(walk, from, count, to, patch_bytes);
  } else {
    CopyPatches<2>(walk, from, count, to, patch_bytes);
  }
}

inline void CopyTaps(const uint8_t* from, int64_t bytes, uint8_t* to) {
  int64_t i = 0;
  FSG_SHORT_LOOP
  for (; i + 8 <= bytes; i += 8) __builtin_memcpy(to + i, from + i, 8);
  FSG_SHORT_LOOP
  for (; i < bytes; i += 2) __builtin_memcpy(to + i, from + i, 2);
}

// The patch of an output pixel whose filter lies over the border: a tap outside the image is all 0 bits, +1.
FSG_OUTLINE void GatherBorder(const Walk& walk, const uint8_t* image, int top, int left, uint8_t* to) {
  const Window& w = walk.w;
  const Taps columns = TapsInside(left, w.dilation_width, w.filter_width, w.in_width);
  const int64_t row_bytes = walk.row_bytes, pixel_bytes = walk.pixel_bytes, bytes = walk.tap_bytes;
  const int64_t filter_row = bytes * w.filter_width;
  memset(to, 0, static_cast<size_t>(filter_row * w.filter_height));
  for (int ky = 0; ky < w.filter_height; ++ky, to += filter_row) {
    const int y = top + ky * w.dilation_height;
    if (y < 0 || y >= w.in_height) continue;
    const uint8_t* from = image + y * row_bytes + left * pixel_bytes;
    if (walk.joins_taps) {
      const int64_t begin = columns.begin * bytes;
      CopyTaps(from + begin, (columns.end - columns.begin) * bytes, to + begin);
      continue;
    }
    for (int kx = columns.begin; kx < columns.end; ++kx) {
      CopyTaps(from + kx * w.dilation_width * pixel_bytes, bytes, to + kx * bytes);
    }
  }
}

// The part of one output row from column x up to `end`.
FSG_OUTLINE void GatherRow(const Walk& walk, const uint8_t* image, int top, int x, int end, uint8_t* to,
                           int64_t patch_bytes) {
  const Window& w = walk.w;
  const bool is_inside = top >= 0 && top <= walk.last_top;
  while (x < end) {
    const int left = x * w.stride_width - w.pad_left;
    const int stop = is_inside && walk.end_inside < end ? walk.end_inside : end;
    int count = 1;
    if (is_inside && x >= walk.begin_inside && x < stop) {
      count = stop - x;
      GatherInside(walk, image + top * walk.row_bytes + left * walk.pixel_bytes, count, to, patch_bytes);
    } else {
      GatherBorder(walk, image, top, left, to);
    }
    x += count;
    to += count * patch_bytes;
  }
}

// Patches [count, patch_bytes] of one group of input channels. The bytes beyond the last tap stay zero.
// Returns the place after them.
Place Gather(const Walk& walk, const uint32_t* group, Place at, int count, uint8_t* patches,
             int64_t patch_bytes) {
  const Window& w = walk.w;
  while (count > 0) {
    const auto* image = reinterpret_cast<const uint8_t*>(group) + at.batch * walk.image_bytes;
    const int columns = count < w.out_width - at.x ? count : w.out_width - at.x;
    const int top = at.y * w.stride_height - w.pad_top;
    GatherRow(walk, image, top, at.x, at.x + columns, patches, patch_bytes);
    patches += columns * patch_bytes;
    count -= columns;
    at.x += columns;
    if (at.x == w.out_width) at = NextRow(w, at);
  }
  return at;
}

#endif  // FSG_KERNELS_GATHER_BODY_H_
