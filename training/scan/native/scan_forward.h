// Part of scan_body.h: from tokens to outputs.
#ifndef FSG_TRAINING_NATIVE_SCAN_FORWARD_H_
#define FSG_TRAINING_NATIVE_SCAN_FORWARD_H_

#include "scan_worker.h"

template <typename T>
inline bool Worker<T>::Forward() {
  if (!Allocate(false)) return false;
  for (int64_t i = item_.first; i < item_.end; ++i) scan_.starts[i] = FirstThatMatters(i);
  Cursor at = Begin(item_.first);
  V* border = static_cast<V*>(item_.borders);
  while (at.sequence < item_.end) {
    if (border != nullptr) {
      memcpy(border, state_, sizeof(V) * groups_ * states_);
      border += groups_ * states_;
    }
    Fill(&at);
    Activate<false>();
    Project(width_);
    FindSteps<false>();
    is_wanted_ ? Advance<true>() : Advance<false>();
    if (is_wanted_) WriteOutputs();
  }
  return true;
}

template <typename T>
template <bool slopes>
inline void Worker<T>::Activate() {
  const int rows = rows_, taps = taps_;
  for (int g = 0; g < groups_; ++g) {
    const V *weights = weights_.taps + g, bias = weights_.conv_bias[g];
    V *to = u_ + g * kChunk, *slope = slopes ? u_slope_ + g * kChunk : nullptr;
    const T* window = windows_;
    for (int r = 0; r < rows; ++r, window += taps) {
      V sum = bias;
      for (int k = 0; k < taps; ++k) sum += weights[k * groups_] * window[k];
      const V sigmoid = Sigmoid<T>(sum), u = sum * sigmoid;
      to[r] = u;
      if (slopes) slope[r] = sigmoid + u * (T{1} - sigmoid);
    }
  }
}

// The first `columns` of r, B and C; whole blocks of rows, those behind the last one hold anything.
template <typename T>
inline void Worker<T>::Project(int columns) {
  const int64_t width = width_;
  for (int column = 0; column < columns; column += kLanes) {
    for (int row = 0; row < rows_; row += kRowBlock) {
      V sums[kRowBlock] = {};
      for (int g = 0; g < groups_; ++g) {
        const T* u = reinterpret_cast<const T*>(u_ + g * kChunk + row);
        const T* weight = transposed_ + g * kLanes * width + column;
        for (int lane = 0; lane < kLanes; ++lane, ++u, weight += width) {
          const V w = *reinterpret_cast<const V*>(weight);
          for (int i = 0; i < kRowBlock; ++i) sums[i] += w * u[i * kLanes];
        }
      }
      for (int i = 0; i < kRowBlock; ++i)
        *reinterpret_cast<V*>(projection_ + (row + i) * width_ + column) = sums[i];
    }
  }
}

// softplus(x) = max(x, 0) + log(1 + e^-|x|), and log(1 + e) = 2 atanh(e / (2 + e))
template <typename T>
template <bool slopes>
inline void Worker<T>::FindSteps() {
  const int rows = rows_, width = width_;
  const T* projection = projection_;
  for (int g = 0; g < groups_; ++g) {
    const V weight = weights_.dt_weight[g], bias = weights_.dt_bias[g], *u = u_ + g * kChunk;
    V *dt = dt_ + g * kChunk, *input = input_ + g * kChunk;
    V* slope = slopes ? dt_slope_ + g * kChunk : nullptr;
    for (int r = 0; r < rows; ++r) {
      const V x = weight * projection[r * width] + bias;
      const auto is_positive = x > T{0};
      const V e = Exp2<T>((is_positive ? -x : x) * T(kLog2E));
      const V z = e / (T{2} + e);
      const V log = T{2} * z * Polynomial<T>(Numbers<T>::kAtanh, z * z);
      const V step = is_positive ? x + log : log;
      dt[r] = step;
      input[r] = step * u[r];
      if (slopes) slope[r] = (is_positive ? V{} + T{1} : e) / (T{1} + e);
    }
  }
}

template <typename T>
template <bool wanted>
inline void Worker<T>::Advance() {
  const int rows = rows_, width = width_;
  const T* keep = keep_;
  for (int g = 0; g < groups_; ++g) {
    const V *dt = dt_ + g * kChunk, *input = input_ + g * kChunk;
    V* y = y_ + g * kChunk;
    if (wanted) StartWithD(g);
    for (int s = 0; s < states_; ++s) {
      const V rate = rates_[s * groups_ + g];
      const T *B = projection_ + 1 + s, *C = B + states_;
      V h = state_[s * groups_ + g];
      for (int r = 0; r < rows; ++r, B += width, C += width) {
        h = Exp2<T>(dt[r] * rate) * keep[r] * h + input[r] * *B;
        if (wanted) y[r] += h * *C;
      }
      state_[s * groups_ + g] = h;
    }
  }
}

template <typename T>
inline void Worker<T>::StartWithD(int g) {
  const V D = weights_.D[g];
  for (int r = 0; r < rows_; ++r) y_[g * kChunk + r] = D * u_[g * kChunk + r];
}

template <typename T>
inline void Worker<T>::WriteOutputs() {
  for (int r = 0; r < rows_; ++r) {
    if (output_[r] < 0) continue;
    V sum = {};
    for (int g = 0; g < groups_; ++g) {
      const V gate = weights_.gate[g] * Token(r);
      sum += weights_.out[g] * y_[g * kChunk + r] * (gate * Sigmoid<T>(gate));
    }
    static_cast<T*>(scan_.outputs)[output_[r]] = Sum<T>(sum);
  }
}

#endif  // FSG_TRAINING_NATIVE_SCAN_FORWARD_H_
