#ifdef FSG_WIDE
typedef int32_t fsg_size;
#else
typedef int16_t fsg_size;
#endif

/* What a window slides over: images are [height][width][channels], padding is above and on the left. */
typedef struct {
  int32_t in_channels, out_channels;
  fsg_size in_height, in_width, out_height, out_width;
  fsg_size kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, top, left;
} fsg_window;

/* What is done to the channels of a pixel, one after the other. `from` is read, `to` is written. */
typedef struct {
  uint16_t does, how;
  union {
    const float* from;
    void* to;
  } at;
} fsg_post;

enum { FSG_PER_CHANNEL, FSG_PER_VALUE, FSG_OF_INPUT };

/* Copies of a few bytes are instructions, not calls, even where the compiler is told that there is no C
 * library. */
#if defined(__GNUC__)
#define FSG_COPY __builtin_memcpy
#else
#define FSG_COPY memcpy
#endif

/* Of the signs of a pixel, 8 a byte. */
#define FSG_BYTES(channels) (((size_t)(channels) + 7) / 8)

/* Every tensor between the layers: floats, or signs, which are read and written as bytes. */
static float fsg_arena[FSG_ARENA_BYTES / sizeof(float)];
static const fsg_number* fsg_input;
static float* fsg_output;
