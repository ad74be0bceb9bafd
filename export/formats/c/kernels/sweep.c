#ifdef FSG_PACK
/* Which of eight values are negative, the first as the lowest bit. */
static unsigned char fsg_signs(const float* v) {
#if defined(__SSE2__)
  const __m128 zero = _mm_setzero_ps();
  const int low = _mm_movemask_ps(_mm_cmplt_ps(_mm_loadu_ps(v), zero));
  return (unsigned char)(low | _mm_movemask_ps(_mm_cmplt_ps(_mm_loadu_ps(v + 4), zero)) << 4);
#elif defined(__aarch64__)
  static const uint32_t place[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint32x4_t low = vandq_u32(vcltzq_f32(vld1q_f32(v)), vld1q_u32(place));
  return (unsigned char)vaddvq_u32(
      vorrq_u32(low, vandq_u32(vcltzq_f32(vld1q_f32(v + 4)), vld1q_u32(place + 4))));
#else
  unsigned signs = 0;
  int i;
  for (i = 0; i < 8; ++i) signs |= (unsigned)(v[i] < 0.0f) << i;
  return (unsigned char)signs;
#endif
}
#endif

/* The post-operations of a pixel, whose channels are in `row`. */
#define FSG_EACH(expression)          \
  for (c = 0; c < channels; ++c) {    \
    const float a = row[c], b = x[c]; \
    (void)a, (void)b;                 \
    row[c] = (expression);            \
  }                                   \
  break
#define FSG_ALL(expression)        \
  for (c = 0; c < channels; ++c) { \
    const float a = row[c];        \
    row[c] = (expression);         \
  }                                \
  break

static void fsg_sweep(const fsg_post* post, int posts, float* row, int32_t pixel, int32_t channels) {
  for (; posts > 0; ++post, --posts) {
    const float* x = post->at.from;
    int32_t c = 0;
    (void)x, (void)c;
    if (post->how == FSG_PER_VALUE) x += pixel * channels;
#ifdef FSG_READS_INPUT
    if (post->how == FSG_OF_INPUT) x = fsg_input + pixel * channels;
#endif
    switch (post->does) {
#ifdef FSG_LOAD_PIXELS
      case FSG_LOAD_PIXELS:
        for (c = 0; c < channels; ++c) row[c] = (float)fsg_input[pixel * channels + c];
        break;
#endif
#ifdef FSG_ADD
      case FSG_ADD:
        FSG_EACH(a + b);
#endif
#ifdef FSG_SCALE
      case FSG_SCALE:
        for (c = 0; c < channels; ++c) {
          const float scaled = row[c] * x[c];
          row[c] = scaled + x[channels + c];
        }
        break;
#endif
#ifdef FSG_MUL
      case FSG_MUL:
        FSG_EACH(a * b);
#endif
#ifdef FSG_SUB
      case FSG_SUB:
        FSG_EACH(a - b);
#endif
#ifdef FSG_SUB_FROM
      case FSG_SUB_FROM:
        FSG_EACH(b - a);
#endif
#ifdef FSG_DIV
      case FSG_DIV:
        FSG_EACH(a / b);
#endif
#ifdef FSG_DIV_INTO
      case FSG_DIV_INTO:
        FSG_EACH(b / a);
#endif
#ifdef FSG_MAXIMUM
      case FSG_MAXIMUM:
        FSG_EACH(a < b ? b : a);
#endif
#ifdef FSG_MINIMUM
      case FSG_MINIMUM:
        FSG_EACH(b < a ? b : a);
#endif
#ifdef FSG_PRELU
      case FSG_PRELU:
        FSG_EACH(a < 0.0f ? a * b : a);
#endif
#ifdef FSG_LOAD
      case FSG_LOAD:
        FSG_EACH(b);
#endif
#ifdef FSG_LOAD_SIGNS
      case FSG_LOAD_SIGNS: {
        const unsigned char* const signs = (const unsigned char*)x + (size_t)pixel * FSG_BYTES(channels);
        for (c = 0; c < channels; ++c) row[c] = (signs[c >> 3] >> (c & 7)) & 1 ? -1.0f : 1.0f;
        break;
      }
#endif
#ifdef FSG_ADD_ONE
      case FSG_ADD_ONE:
        FSG_ALL(a + x[0]);
#endif
#ifdef FSG_MUL_ONE
      case FSG_MUL_ONE:
        FSG_ALL(a * x[0]);
#endif
#ifdef FSG_SUB_ONE
      case FSG_SUB_ONE:
        FSG_ALL(a - x[0]);
#endif
#ifdef FSG_SUB_FROM_ONE
      case FSG_SUB_FROM_ONE:
        FSG_ALL(x[0] - a);
#endif
#ifdef FSG_DIV_ONE
      case FSG_DIV_ONE:
        FSG_ALL(a / x[0]);
#endif
#ifdef FSG_DIV_INTO_ONE
      case FSG_DIV_INTO_ONE:
        FSG_ALL(x[0] / a);
#endif
#ifdef FSG_MAXIMUM_ONE
      case FSG_MAXIMUM_ONE:
        FSG_ALL(a < x[0] ? x[0] : a);
#endif
#ifdef FSG_MINIMUM_ONE
      case FSG_MINIMUM_ONE:
        FSG_ALL(x[0] < a ? x[0] : a);
#endif
#ifdef FSG_PRELU_ONE
      case FSG_PRELU_ONE:
        FSG_ALL(a < 0.0f ? a * x[0] : a);
#endif
#ifdef FSG_RELU
      case FSG_RELU:
        FSG_ALL(a < 0.0f ? 0.0f : a);
#endif
#ifdef FSG_RELU6
      case FSG_RELU6:
        FSG_ALL(a < 0.0f ? 0.0f : a > 6.0f ? 6.0f : a);
#endif
#ifdef FSG_RELU_N1_TO_1
      case FSG_RELU_N1_TO_1:
        FSG_ALL(a < -1.0f ? -1.0f : a > 1.0f ? 1.0f : a);
#endif
#ifdef FSG_ABS
      case FSG_ABS:
        FSG_ALL(a < 0.0f ? -a : a);
#endif
#ifdef FSG_SIGN
      case FSG_SIGN:
        FSG_ALL(a < 0.0f ? -1.0f : a > 0.0f ? 1.0f : 0.0f);
#endif
#ifdef FSG_ELU
      case FSG_ELU:
        FSG_ALL(a < 0.0f ? expm1f(a) : a);
#endif
#ifdef FSG_LOGISTIC
      case FSG_LOGISTIC:
        FSG_ALL(1.0f / (1.0f + expf(-a)));
#endif
#ifdef FSG_TANH
      case FSG_TANH:
        FSG_ALL(tanhf(a));
#endif
#ifdef FSG_HARD_SWISH
      case FSG_HARD_SWISH:
        FSG_ALL(a * (a < -3.0f ? 0.0f : a > 3.0f ? 6.0f : a + 3.0f) / 6.0f);
#endif
#ifdef FSG_GELU
      case FSG_GELU:
        FSG_ALL(0.5f * a * (1.0f + erff(a * 0.70710678f)));
#endif
#ifdef FSG_GELU_TANH
      case FSG_GELU_TANH:
        FSG_ALL(0.5f * a * (1.0f + tanhf(0.79788456f * (a + 0.044715f * a * a * a))));
#endif
#ifdef FSG_EXP
      case FSG_EXP:
        FSG_ALL(expf(a));
#endif
#ifdef FSG_LOG
      case FSG_LOG:
        FSG_ALL(logf(a));
#endif
#ifdef FSG_SQRT
      case FSG_SQRT:
        FSG_ALL(sqrtf(a));
#endif
#ifdef FSG_ROUND
      case FSG_ROUND:
        FSG_ALL(rintf(a));
#endif
#ifdef FSG_FLOOR
      case FSG_FLOOR:
        FSG_ALL(floorf(a));
#endif
#ifdef FSG_CEIL
      case FSG_CEIL:
        FSG_ALL(ceilf(a));
#endif
#ifdef FSG_STORE
      case FSG_STORE:
        FSG_COPY((float*)post->at.to + pixel * channels, row, (size_t)channels * sizeof(float));
        break;
#endif
#ifdef FSG_OUTPUT
      case FSG_OUTPUT:
        FSG_COPY(fsg_output + pixel * channels, row, (size_t)channels * sizeof(float));
        break;
#endif
#ifdef FSG_PACK
      case FSG_PACK: {
        unsigned char* signs = (unsigned char*)post->at.to + (size_t)pixel * FSG_BYTES(channels);
        for (c = 0; c + 8 <= channels; c += 8) *signs++ = fsg_signs(row + c);
        if (c < channels) {
          float rest[8] = {0};
          FSG_COPY(rest, row + c, (size_t)(channels - c) * sizeof(float));
          *signs = fsg_signs(rest);
        }
        break;
      }
#endif
      default:
        break;
    }
  }
}
