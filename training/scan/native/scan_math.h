// Part of scan_body.h: vectors and their exponentials and sums.
#ifndef FSG_TRAINING_NATIVE_SCAN_MATH_H_
#define FSG_TRAINING_NATIVE_SCAN_MATH_H_

template <typename T>
using Vector = T __attribute__((vector_size(kVectorBytes)));

template <typename T>
struct Numbers;

template <>
struct Numbers<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kLimit = 126, kMagic = 1.5f * (1 << 23);
  // (2^f - 1) / f on [-0.5, 0.5] with errors of up to 9e-8 in 2^f, and atanh(z) / z in z^2 up to 1/9, 4e-9
  static constexpr float kExp2[] = {6.9314698e-01f, 2.4022242e-01f, 5.550734e-02f, 9.67151e-03f,
                                    1.32647e-03f};
  static constexpr float kAtanh[] = {1.0f, 3.333315734e-01f, 2.001245507e-01f, 1.398030235e-01f,
                                     1.408916306e-01f};
};

template <>
struct Numbers<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kLimit = 1022, kMagic = 1.5 * (int64_t{1} << 52);
  static constexpr double kExp2[] = {
      // the Taylor series, as below
      6.93147180559945286e-01, 2.40226506959100694e-01, 5.55041086648215762e-02, 9.61812910762847688e-03,
      1.33335581464284411e-03, 1.54035303933816061e-04, 1.52527338040598377e-05, 1.32154867901443053e-06,
      1.01780860092396960e-07, 7.05491162080112088e-09, 4.44553827187081007e-10, 2.56784359934881958e-11,
      1.36914888539041241e-12};
  static constexpr double kAtanh[] = {1.,      1. / 3,  1. / 5,  1. / 7,  1. / 9,  1. / 11, 1. / 13, 1. / 15,
                                      1. / 17, 1. / 19, 1. / 21, 1. / 23, 1. / 25, 1. / 27, 1. / 29, 1. / 31};
};

template <typename T, int count>
inline Vector<T> Polynomial(const T (&coefficients)[count], Vector<T> x) {
  Vector<T> sum = Vector<T>{} + coefficients[count - 1];
  for (int i = count - 2; i >= 0; --i) sum = sum * x + coefficients[i];
  return sum;
}

// 2^x for x at most kLimit; below -kLimit it stays at 2^-kLimit.
template <typename T>
inline Vector<T> Exp2(Vector<T> x) {
  using N = Numbers<T>;
  using Ints = typename N::Int __attribute__((vector_size(kVectorBytes)));
  const Vector<T> low = Vector<T>{} - N::kLimit;
  x = x > low ? x : low;
  const Vector<T> shifted = x + N::kMagic;  // the nearest integer stands in its lowest bits
  const Vector<T> rest = x - (shifted - N::kMagic);
  const Vector<T> power = Polynomial<T>(N::kExp2, rest) * rest + T{1};
  return (Vector<T>)((Ints)power + ((Ints)shifted << N::kMantissa));
}

constexpr double kLog2E = 1.4426950408889634;

template <typename T>
inline Vector<T> Sigmoid(Vector<T> x) {
  const Vector<T> high = Vector<T>{} + Numbers<T>::kLimit;
  Vector<T> power = x * T(-kLog2E);
  power = power < high ? power : high;
  return T{1} / (T{1} + Exp2<T>(power));
}

template <typename T, int bytes>
inline T SumHalves(const T* values) {
  if constexpr (bytes == sizeof(T)) {
    return values[0];
  } else {
    using Half = T __attribute__((vector_size(bytes / 2)));
    Half halves[2];
    memcpy(halves, values, bytes);
    halves[0] += halves[1];
    T sums[bytes / 2 / sizeof(T)];
    memcpy(sums, halves, bytes / 2);
    return SumHalves<T, bytes / 2>(sums);
  }
}

template <typename T>
inline T Sum(Vector<T> v) {
  T values[kVectorBytes / sizeof(T)];
  memcpy(values, &v, sizeof(v));
  return SumHalves<T, kVectorBytes>(values);
}

#endif  // FSG_TRAINING_NATIVE_SCAN_MATH_H_
