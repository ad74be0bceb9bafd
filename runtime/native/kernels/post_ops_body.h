// Part of kernels_body.h: runs post-operations on 16 channels of a tile of pixels at a time, so that the
// choice of what to do next is made once for all of them.
#ifndef FSG_KERNELS_POST_OPS_BODY_H_
#define FSG_KERNELS_POST_OPS_BODY_H_

#include "kernels/vectors_body.h"
#include "kernels/window_body.h"

// Where a post-operation finds or leaves values: those of a tensor from its first pixel and channel on, or of
// 16 channels of the tile.
struct Row {
  float* at;
  int64_t step;  // from one pixel to the next
  int64_t mask;  // -1 for a tensor, 0 for a tile
};

// What post-operations work on: the pixels of a tile, and the convolution whose dot products [pixels, lanes]
// they are (none where they begin at a tensor).
struct Tile {
  const PostOps& post_ops;
  int64_t pixel;
  const Conv* conv;
  const ConvPlan* plan;
  const int32_t* dots;
};

// Copies the 16 channels from `c` of `count` pixels to [count, 16] where they cannot be read in place.
FSG_OUTLINE void GatherOperand(const PostOps& post_ops, const PostOp& post_op, int64_t pixel, int count,
                               int c, float* to) {
  for (int p = 0; p < count; ++p, ++pixel) {
    const float* from = static_cast<const float*>(post_op.data) + pixel * post_op.pixel_step;
    if (post_op.image_step != 0) from += pixel / post_ops.image_pixels * post_op.image_step;
    for (int i = 0; i < kLanes; ++i) {
      const int at = c + i - post_op.first_channel;
      *to++ = at >= 0 && at < post_op.channels ? from[at] : 0.0f;
    }
  }
}

// The maximum of rows x columns pixels, of `used` channels from `from`.
template <bool is_whole>
FSG_OUTLINE Floats MaximumUnder(const float* from, int64_t row_step, int64_t pixel_step, int rows,
                                int columns, int used) {
  Floats best = Floats{} - __builtin_huge_valf();
  for (; rows > 0; --rows, from += row_step) {
    const float* at = from;
    for (int x = columns; x > 0; --x, at += pixel_step) {
      Floats values = {};
      memcpy(&values, at, is_whole ? sizeof(values) : sizeof(float) * static_cast<size_t>(used));
      best = best < values ? values : best;
    }
  }
  return best;
}

// The maximum under the window, [count, 16].
FSG_OUTLINE void PoolOperand(const PostOp& post_op, int64_t pixel, int count, int c, float* to) {
  const Window& w = *post_op.window;
  const int64_t pixel_step = post_op.pixel_step, row_step = w.in_width * pixel_step;
  const auto* data = static_cast<const float*>(post_op.data) + c;
  const int used = w.words - c < kLanes ? w.words - c : kLanes;
  const auto maximum = used == kLanes ? MaximumUnder<true> : MaximumUnder<false>;
  Place at = PlaceOf(w, pixel);
  for (; count > 0; --count, to += kLanes) {
    const int top = at.y * w.stride_height - w.pad_top, left = at.x * w.stride_width - w.pad_left;
    const Taps rows = TapsInside(top, 1, w.filter_height, w.in_height);
    const Taps columns = TapsInside(left, 1, w.filter_width, w.in_width);
    const int64_t row = static_cast<int64_t>(at.batch) * w.in_height + top + rows.begin;
    const float* from = data + row * row_step + (left + columns.begin) * pixel_step;
    const Floats best =
        maximum(from, row_step, pixel_step, rows.end - rows.begin, columns.end - columns.begin, used);
    memcpy(to, &best, sizeof(best));
    if (++at.x == w.out_width) at = NextRow(w, at);
  }
}

// What running tiles needs besides registers.
template <int pixels>
struct Room {
  Row rows[kMaxPostOps];
  Row rows_of_block[kMaxPostOps];  // for 16 channels that some do not find in `rows`
  bool gathers;                    // for all channels, not only for the last few
  float kept[pixels * kLanes];
  float gathered[kMaxPostOps][pixels * kLanes];  // what cannot be read or written in place
};

inline bool UsesMemory(const PostOp& post_op) {
  return post_op.data != nullptr && post_op.kind != PostOpKind::kPack;
}

// Whether a post-operation finds the tile's channels one beside the other, as far as there are whole vectors
// of them.
inline bool IsInPlace(const PostOps& post_ops, const PostOp& post_op) {
  return post_op.kind != PostOpKind::kPool && post_op.first_channel == 0 && post_op.image_step == 0 &&
         (post_op.kind == PostOpKind::kStore || post_op.channels >= post_ops.channels);
}

// Finds the rows of every post-operation once for all tiles. Among them it would cost the values their
// registers.
template <int pixels>
void FindRows(const PostOps& post_ops, Room<pixels>* room) {
  room->gathers = false;
  for (int i = 0; i < post_ops.count; ++i) {
    const PostOp& post_op = post_ops.list[i];
    room->rows[i] = {room->kept, kLanes, 0};
    if (post_op.is_kept || !UsesMemory(post_op)) continue;
    room->rows[i] = {static_cast<float*>(post_op.data), post_op.pixel_step, -1};
    room->gathers |= !IsInPlace(post_ops, post_op);
  }
}

// The row of an operand that covers some channels only, if all 16 from `c` lie inside or all outside.
inline bool FindSlice(const Tile& tile, const PostOp& post_op, int c, Row* row) {
  alignas(64) static float zeros[kLanes];
  const int first = c - post_op.first_channel;
  if (post_op.kind == PostOpKind::kStore || post_op.kind == PostOpKind::kPool || post_op.image_step != 0)
    return false;
  if (first >= post_op.channels || first + kLanes <= 0) {
    *row = {zeros, 0, 0};
    return true;
  }
  *row = {static_cast<float*>(post_op.data) + tile.pixel * post_op.pixel_step + first, post_op.pixel_step, 0};
  return first >= 0 && first + kLanes <= post_op.channels;
}

// Finds or gathers the 16 channels from `c` of those that do not have them where FindRows says.
template <int pixels>
FSG_OUTLINE void GatherRows(const Tile& tile, int c, Room<pixels>* room) {
  const PostOps& post_ops = tile.post_ops;
  const bool is_whole = c + kLanes <= post_ops.channels;
  for (int i = 0; i < post_ops.count; ++i) {
    const PostOp& post_op = post_ops.list[i];
    Row* row = &room->rows_of_block[i];
    *row = room->rows[i];
    if (post_op.is_kept || !UsesMemory(post_op) || (is_whole && IsInPlace(post_ops, post_op))) continue;
    if (FindSlice(tile, post_op, c, row)) continue;
    *row = {room->gathered[i], kLanes, 0};
    if (post_op.kind == PostOpKind::kPool) {
      PoolOperand(post_op, tile.pixel, pixels, c, room->gathered[i]);
    } else if (post_op.kind != PostOpKind::kStore) {
      GatherOperand(post_ops, post_op, tile.pixel, pixels, c, room->gathered[i]);
    }
  }
}

// Stores what remains of the channels after the last 16.
template <int pixels>
FSG_OUTLINE void StoreRest(const Tile& tile, int c, const Room<pixels>& room) {
  const PostOps& post_ops = tile.post_ops;
  for (int i = 0; i < post_ops.count; ++i) {
    const PostOp& post_op = post_ops.list[i];
    if (post_op.kind != PostOpKind::kStore) continue;
    float* to = static_cast<float*>(post_op.data) + tile.pixel * post_op.pixel_step + c;
    for (int p = 0; p < pixels; ++p, to += post_op.pixel_step) {
      memcpy(to, room.gathered[i] + p * kLanes, sizeof(float) * static_cast<size_t>(post_ops.channels - c));
    }
  }
}

// Where the values of kDots come from. A copy, so that the compiler keeps it in registers while it stores.
struct DotsSource {
  const int32_t* dots;
  int64_t lanes;
  const float *multiplier, *bias;
  int32_t clamp_min, clamp_max;
  bool clamps;
};

inline DotsSource SourceOf(const Tile& tile) {
  if (tile.dots == nullptr) return {};
  return {tile.dots,         tile.plan->lanes,     tile.plan->multiplier,
          tile.plan->bias,   tile.conv->clamp_min, tile.conv->clamp_max,
          Clamps(*tile.conv)};
}

template <int pixels>
FSG_INLINE void LoadDots(const DotsSource& source, int64_t c, Floats* v) {
  const Floats multiplier = LoadFloats(source.multiplier + c), bias = LoadFloats(source.bias + c);
  const int32_t* dots = source.dots + c;
  for (int p = 0; p < pixels; ++p, dots += source.lanes) {
    Ints twice;
    memcpy(&twice, dots, sizeof(twice));
    if (source.clamps) twice = Clamp(twice, source.clamp_min, source.clamp_max);
    v[p] = Transform(twice, multiplier, bias);
  }
}

// Half a word a pixel; the second half of the last word is zeroed if it has no channels.
template <int pixels>
FSG_INLINE void PackLanes(const Tile& tile, const PostOp& post_op, int c, const Floats* v) {
  __asm__ volatile("" : "+r"(c));  // or what follows is computed for lists that pack nothing, too
  auto* words = static_cast<uint32_t*>(post_op.data) + tile.pixel * post_op.pixel_step;
  auto* to = reinterpret_cast<uint8_t*>(words) + (c >> 3);
  const int left = tile.post_ops.channels - c;
  const int64_t pixel_bytes = 4 * post_op.pixel_step;
  const auto store = [&](auto half, uint32_t mask) {
    for (int p = 0; p < pixels; p += 2) {
      const uint32_t pair = SignBits(v[p], v[pixels > 1 ? p + 1 : p]) & mask;
      const decltype(half) first = pair & 0xffff, second = pair >> 16;
      memcpy(to + p * pixel_bytes, &first, sizeof(half));
      if (pixels > 1) memcpy(to + (p + 1) * pixel_bytes, &second, sizeof(half));
    }
  };
  if (left > kLanes) return store(uint16_t{}, ~0u);
  const uint32_t mask = left < kLanes ? ((1u << left) - 1) * 0x10001u : ~0u;
  c % 32 == 0 ? store(uint32_t{}, mask) : store(uint16_t{}, mask);
}

// The 16 channels from `c` of a tile.
template <int pixels>
FSG_INLINE void RunBlock(const Tile& tile, const DotsSource& source, const PostOp* post_op, const PostOp* end,
                         int64_t c, const Row* row, float* kept) {
  const int64_t pixel = tile.pixel;  // a copy, which no store can change
  const auto find = [&] { return row->at + ((pixel * row->step + c) & row->mask); };
  Floats v[pixels];
  if (post_op->kind == PostOpKind::kDots) {
    LoadDots<pixels>(source, c, v);
  } else {
    const float* const at = find();
    for (int p = 0; p < pixels; ++p) v[p] = LoadFloats(at + p * row->step);
  }
  while (++post_op != end) {
    ++row;
    float* const at = find();
    const auto combine = [&](auto operation) {
      for (int p = 0; p < pixels; ++p) v[p] = operation(v[p], LoadFloats(at + p * row->step));
    };
    switch (post_op->kind) {
      case PostOpKind::kDots:
      case PostOpKind::kLoad:
      case PostOpKind::kPool:
        __builtin_unreachable();
      case PostOpKind::kAdd:
        combine([](Floats a, Floats b) { return a + b; });
        break;
      case PostOpKind::kSubtract:
        combine([](Floats a, Floats b) { return a - b; });
        break;
      case PostOpKind::kSubtractFrom:
        combine([](Floats a, Floats b) { return b - a; });
        break;
      case PostOpKind::kMultiply:
        combine([](Floats a, Floats b) { return a * b; });
        break;
      case PostOpKind::kMaximum:
        combine([](Floats a, Floats b) { return a < b ? b : a; });
        break;
      case PostOpKind::kMinimum:
        combine([](Floats a, Floats b) { return b < a ? b : a; });
        break;
      case PostOpKind::kPrelu:
        combine([](Floats a, Floats b) { return a < 0.0f ? a * b : a; });
        break;
      case PostOpKind::kClamp:
        for (int p = 0; p < pixels; ++p) {
          v[p] = v[p] < post_op->low ? Floats{} + post_op->low : v[p];
          v[p] = v[p] > post_op->high ? Floats{} + post_op->high : v[p];
        }
        break;
      case PostOpKind::kNegate:
        for (int p = 0; p < pixels; ++p) v[p] = -v[p];
        break;
      case PostOpKind::kAbsolute:
        for (int p = 0; p < pixels; ++p) v[p] = __builtin_elementwise_abs(v[p]);
        break;
      case PostOpKind::kSwap:
        for (int p = 0; p < pixels; ++p) {
          const Floats other = LoadFloats(kept + p * kLanes);
          memcpy(kept + p * kLanes, &v[p], sizeof(v[p]));
          v[p] = other;
        }
        break;
      case PostOpKind::kKeep:
        for (int p = 0; p < pixels; ++p) memcpy(kept + p * kLanes, &v[p], sizeof(v[p]));
        break;
      case PostOpKind::kStore:
        for (int p = 0; p < pixels; ++p) memcpy(at + p * row->step, &v[p], sizeof(v[p]));
        break;
      case PostOpKind::kPack:
        PackLanes<pixels>(tile, *post_op, static_cast<int>(c), v);
        break;
    }
  }
}

// All channels from `c` up to `end`, which all post-operations find in `rows`.
template <int pixels>
FSG_OUTLINE void RunBlocks(const Tile& tile, int64_t c, int64_t end, const Row* rows, float* kept) {
  const DotsSource source = SourceOf(tile);
  const PostOp *first = tile.post_ops.list, *last = first + tile.post_ops.count;
  for (; c < end; c += kLanes) RunBlock<pixels>(tile, source, first, last, c, rows, kept);
}

template <int pixels>
void RunPixels(Tile* tile, int* count, Room<pixels>* room) {
  const int channels = tile->post_ops.channels, whole = channels / kLanes * kLanes;
  for (; *count >= pixels; *count -= pixels, tile->pixel += pixels) {
    int c = room->gathers ? 0 : whole;
    if (c > 0) RunBlocks<pixels>(*tile, 0, c, room->rows, room->kept);
    for (; c < channels; c += kLanes) {
      GatherRows(*tile, c, room);
      RunBlocks<pixels>(*tile, c, c + kLanes, room->rows_of_block, room->kept);
      if (c == whole) StoreRest(*tile, c, *room);
    }
    if (tile->dots != nullptr) tile->dots += pixels * int64_t{tile->plan->lanes};
  }
}

// Runs post-operations on tiles, one after the other.
class Runner {
 public:
  void Prepare(const PostOps& post_ops) {
    FindRows(post_ops, &room_);
    FindRows(post_ops, &small_room_);
  }

  void Run(Tile tile, int count) {
    RunPixels(&tile, &count, &room_);
    if (count > 0) RunPixels(&tile, &count, &small_room_);
  }

 private:
  Room<kPostOpTile> room_;
  Room<1> small_room_;
};

void Apply(ThreadPool* pool, const PostOps& post_ops, int64_t pixels) {
  ParallelFor(pool, pixels, {kPostOpTile, kValueGrain / post_ops.channels + 1},
              [&](int64_t begin, int64_t end, int) {
                Runner runner;
                runner.Prepare(post_ops);
                for (int64_t at = begin; at < end; at += kPostOpTile) {
                  const int count = end - at < kPostOpTile ? static_cast<int>(end - at) : kPostOpTile;
                  runner.Run({post_ops, at, nullptr, nullptr, nullptr}, count);
                }
              });
}

#endif  // FSG_KERNELS_POST_OPS_BODY_H_
