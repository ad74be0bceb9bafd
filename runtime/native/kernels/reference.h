// The obvious loops, which say what is right. Every other kernel is tested against them.
#ifndef FSG_KERNELS_REFERENCE_H_
#define FSG_KERNELS_REFERENCE_H_

#include <string.h>

#include "kernels/kernels.h"

namespace fsg::reference {

template <typename T>
void Pack(const T* in, int64_t rows, int channels, T zero_point, uint32_t* out) {
  const int words = PackedWords(channels);
  for (int64_t row = 0; row < rows; ++row, in += channels, out += words) {
    memset(out, 0, sizeof(uint32_t) * words);
    for (int c = 0; c < channels; ++c) {
      if (in[c] < zero_point) out[c / 32] |= uint32_t{1} << (c % 32);
    }
  }
}

template <typename T>
void Unpack(const uint32_t* in, int64_t rows, int channels, T plus_one, T minus_one, T* out) {
  const int words = PackedWords(channels);
  for (int64_t row = 0; row < rows; ++row, in += words, out += channels) {
    for (int c = 0; c < channels; ++c) out[c] = in[c / 32] >> (c % 32) & 1 ? minus_one : plus_one;
  }
}

// The pixel of `image` under a tap, or nullptr outside of it.
inline const uint32_t* Tap(const Window& w, const uint32_t* image, int out_y, int out_x, int ky, int kx) {
  const int y = out_y * w.stride_height - w.pad_top + ky * w.dilation_height;
  const int x = out_x * w.stride_width - w.pad_left + kx * w.dilation_width;
  if (y < 0 || y >= w.in_height || x < 0 || x >= w.in_width) return nullptr;
  return image + (static_cast<int64_t>(y) * w.in_width + x) * w.words;
}

// Twice the popcount of one output channel: a zero-padded tap counts half its channels.
inline int32_t TwicePopcount(const Conv& conv, const uint32_t* image, int out_y, int out_x, int channel) {
  const Window& w = conv.window;
  const int64_t taps = static_cast<int64_t>(w.filter_height) * w.filter_width;
  const int words = w.words / conv.groups, group = channel / (conv.channels_out / conv.groups);
  const uint32_t* filter = conv.filter + channel * taps * words;
  int32_t twice = 0;
  for (int ky = 0; ky < w.filter_height; ++ky) {
    for (int kx = 0; kx < w.filter_width; ++kx, filter += words) {
      const uint32_t* pixel = Tap(w, image, out_y, out_x, ky, kx);
      if (pixel == nullptr && conv.zero_padding) {
        twice += conv.channels_in;
        continue;
      }
      for (int i = 0; i < words; ++i) {
        twice += 2 * __builtin_popcount((pixel == nullptr ? 0 : pixel[group * words + i]) ^ filter[i]);
      }
    }
  }
  return twice;
}

inline float Transform(const Conv& conv, int32_t twice, int channel) {
#pragma clang fp contract(off)  // the same bits on every processor, with or without fused multiply-add
  twice = twice < conv.clamp_min ? conv.clamp_min : twice > conv.clamp_max ? conv.clamp_max : twice;
  return conv.bias[channel] + conv.multiplier[channel] * static_cast<float>(twice);
}

// Half away from zero, as std::round; spelled out because there is no libm to link.
inline int8_t RoundToInt8(float value) {
  value = value > -128.0f ? value < 127.0f ? value : 127.0f : -128.0f;
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return static_cast<int8_t>(whole + (rest >= 0.5f) - (rest <= -0.5f));
}

// What a post-operation reads at a channel of a pixel.
inline float Operand(const PostOps& post_ops, const PostOp& post_op, int64_t pixel, int channel, float kept) {
  if (post_op.is_kept) return kept;
  const int at = channel - post_op.first_channel;
  if (at < 0 || at >= post_op.channels) return 0;
  const float* image =
      static_cast<const float*>(post_op.data) + pixel / post_ops.image_pixels * post_op.image_step;
  return image[pixel * post_op.pixel_step + at];
}

inline float PoolOperand(const PostOp& post_op, int64_t pixel, int channel) {
  const Window& w = *post_op.window;
  const int64_t row = pixel / w.out_width, batch = row / w.out_height;
  const int64_t top = row % w.out_height * w.stride_height - w.pad_top;
  const int64_t left = pixel % w.out_width * w.stride_width - w.pad_left;
  float best = -__builtin_huge_valf();
  for (int64_t y = top; y < top + w.filter_height; ++y) {
    for (int64_t x = left; x < left + w.filter_width; ++x) {
      if (y < 0 || y >= w.in_height || x < 0 || x >= w.in_width) continue;
      const int64_t at = ((batch * w.in_height + y) * w.in_width + x) * post_op.pixel_step + channel;
      const float value = static_cast<const float*>(post_op.data)[at];
      if (value > best) best = value;
    }
  }
  return best;
}

// Runs post-operations at one channel of a pixel; `dots` is what a convolution computed there.
inline void RunPostOps(const PostOps& post_ops, float dots, int64_t pixel, int channel) {
  float v = 0, kept = 0;
  for (const PostOp* post_op = post_ops.list; post_op != post_ops.list + post_ops.count; ++post_op) {
    const auto operand = [&] { return Operand(post_ops, *post_op, pixel, channel, kept); };
    const auto place = [&](int at) { return pixel * post_op->pixel_step + at; };
    switch (post_op->kind) {
      case PostOpKind::kDots:
        v = dots;
        break;
      case PostOpKind::kLoad:
        v = operand();
        break;
      case PostOpKind::kPool:
        v = PoolOperand(*post_op, pixel, channel);
        break;
      case PostOpKind::kAdd:
        v = v + operand();
        break;
      case PostOpKind::kSubtract:
        v = v - operand();
        break;
      case PostOpKind::kSubtractFrom:
        v = operand() - v;
        break;
      case PostOpKind::kMultiply:
        v = v * operand();
        break;
      case PostOpKind::kMaximum:
        v = v < operand() ? operand() : v;
        break;
      case PostOpKind::kMinimum:
        v = operand() < v ? operand() : v;
        break;
      case PostOpKind::kPrelu:
        v = v < 0 ? v * operand() : v;
        break;
      case PostOpKind::kClamp:
        v = v < post_op->low ? post_op->low : v;
        v = v > post_op->high ? post_op->high : v;
        break;
      case PostOpKind::kNegate:
        v = -v;
        break;
      case PostOpKind::kAbsolute:
        v = __builtin_fabsf(v);
        break;
      case PostOpKind::kSwap: {
        const float other = kept;
        kept = v;
        v = other;
        break;
      }
      case PostOpKind::kKeep:
        kept = v;
        break;
      case PostOpKind::kStore:
        static_cast<float*>(post_op->data)[place(channel)] = v;
        break;
      case PostOpKind::kPack: {
        uint32_t* word = static_cast<uint32_t*>(post_op->data) + place(channel / 32);
        if (channel % 32 == 0) *word = 0;
        *word |= uint32_t{v < 0} << (channel % 32);
        break;
      }
    }
  }
}

inline void Apply(ThreadPool*, const PostOps& post_ops, int64_t pixels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int c = 0; c < post_ops.channels; ++c) RunPostOps(post_ops, 0, pixel, c);
  }
}

inline void Convolve(ThreadPool*, const Conv& conv, const ConvPlan&, const uint32_t* in, void* out) {
  const Window& w = conv.window;
  const int out_words = PackedWords(conv.channels_out);
  int64_t pixel = 0;
  for (int n = 0; n < w.batch; ++n, in += static_cast<int64_t>(w.in_height) * w.in_width * w.words) {
    for (int y = 0; y < w.out_height; ++y) {
      for (int x = 0; x < w.out_width; ++x, ++pixel) {
        uint32_t* bits = static_cast<uint32_t*>(out) + pixel * out_words;
        if (conv.output == Output::kPacked) memset(bits, 0, sizeof(uint32_t) * out_words);
        for (int c = 0; c < conv.channels_out; ++c) {
          const int32_t twice = TwicePopcount(conv, in, y, x, c);
          const int64_t at = pixel * conv.channels_out + c;
          if (conv.output == Output::kFloat) {
            RunPostOps(*static_cast<const PostOps*>(out), Transform(conv, twice, c), pixel, c);
          } else if (conv.output == Output::kInt8) {
            static_cast<int8_t*>(out)[at] = RoundToInt8(Transform(conv, twice, c));
          } else if (twice > 2 * static_cast<int64_t>(conv.thresholds[c])) {
            bits[c / 32] |= uint32_t{1} << (c % 32);
          }
        }
      }
    }
  }
}

// The maximum of signs is -1 only where all are: an AND of the bits.
inline void MaxPool(ThreadPool*, const Window& w, const uint32_t* in, uint32_t* out) {
  for (int n = 0; n < w.batch; ++n, in += static_cast<int64_t>(w.in_height) * w.in_width * w.words) {
    for (int y = 0; y < w.out_height; ++y) {
      for (int x = 0; x < w.out_width; ++x, out += w.words) {
        memset(out, 0xff, sizeof(uint32_t) * w.words);
        for (int ky = 0; ky < w.filter_height; ++ky) {
          for (int kx = 0; kx < w.filter_width; ++kx) {
            const uint32_t* pixel = Tap(w, in, y, x, ky, kx);
            for (int i = 0; pixel != nullptr && i < w.words; ++i) out[i] &= pixel[i];
          }
        }
      }
    }
  }
}

inline void PackFloat(ThreadPool*, const float* in, int64_t rows, int channels, uint32_t* out) {
  Pack<float>(in, rows, channels, 0.0f, out);
}

inline void PackInt8(ThreadPool*, const int8_t* in, int64_t rows, int channels, int zero_point,
                     uint32_t* out) {
  Pack<int8_t>(in, rows, channels, static_cast<int8_t>(zero_point), out);
}

// The sum of one output channel at a pixel.
inline int32_t Int8Sum(const Int8Conv& conv, const int8_t* in, int n, int y, int x, int channel) {
  const Window& w = conv.window;
  const int8_t* filter = conv.filter + int64_t{channel} * w.filter_height * w.filter_width * w.words;
  int32_t sum = conv.bias[channel];
  for (int ky = 0; ky < w.filter_height; ++ky) {
    for (int kx = 0; kx < w.filter_width; ++kx, filter += w.words) {
      const int in_y = y * w.stride_height - w.pad_top + ky * w.dilation_height;
      const int in_x = x * w.stride_width - w.pad_left + kx * w.dilation_width;
      if (in_y < 0 || in_y >= w.in_height || in_x < 0 || in_x >= w.in_width) continue;
      const int8_t* pixel = in + ((int64_t{n} * w.in_height + in_y) * w.in_width + in_x) * w.words;
      for (int c = 0; c < w.words; ++c) sum += (pixel[c] - conv.in_zero) * filter[c];
    }
  }
  return sum;
}

inline void ConvolveInt8(ThreadPool*, const Int8Conv& conv, const Int8Plan&, const int8_t* in, int8_t* out) {
#pragma clang fp contract(off)
  const Window& w = conv.window;
  for (int n = 0; n < w.batch; ++n) {
    for (int y = 0; y < w.out_height; ++y) {
      for (int x = 0; x < w.out_width; ++x) {
        for (int c = 0; c < conv.channels_out; ++c) {
          const float value = static_cast<float>(Int8Sum(conv, in, n, y, x, c)) * conv.scale[c];
          *out++ = Requantize(value, conv.low, conv.high, conv.out_zero);
        }
      }
    }
  }
}

inline int8_t MaximumOfInt8(const Window& w, const int8_t* in, int n, int y, int x, int channel) {
  int8_t best = -128;
  for (int ky = 0; ky < w.filter_height; ++ky) {
    for (int kx = 0; kx < w.filter_width; ++kx) {
      const int in_y = y * w.stride_height - w.pad_top + ky, in_x = x * w.stride_width - w.pad_left + kx;
      if (in_y < 0 || in_y >= w.in_height || in_x < 0 || in_x >= w.in_width) continue;
      const int8_t value = in[((int64_t{n} * w.in_height + in_y) * w.in_width + in_x) * w.words + channel];
      best = value > best ? value : best;
    }
  }
  return best;
}

inline void MaxPoolInt8(ThreadPool*, const Window& w, const int8_t* in, int8_t* out) {
  for (int n = 0; n < w.batch; ++n) {
    for (int y = 0; y < w.out_height; ++y) {
      for (int x = 0; x < w.out_width; ++x) {
        for (int c = 0; c < w.words; ++c) *out++ = MaximumOfInt8(w, in, n, y, x, c);
      }
    }
  }
}

constexpr Kernels kKernels = {"scalar", 0,       0,     0, PackFloat,    PackInt8,
                              Convolve, MaxPool, Apply, 0, ConvolveInt8, MaxPoolInt8};

}  // namespace fsg::reference

#endif  // FSG_KERNELS_REFERENCE_H_
