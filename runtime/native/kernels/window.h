// Sliding windows over images.
#ifndef FSG_KERNELS_WINDOW_H_
#define FSG_KERNELS_WINDOW_H_

namespace fsg {

// What one does; shared by convolutions and pooling.
struct Window {
  int batch, in_height, in_width, out_height, out_width;
  int words;  // per pixel, packed or values
  int filter_height, filter_width, stride_height, stride_width, dilation_height, dilation_width;
  int pad_top, pad_left;
};

}  // namespace fsg

#endif  // FSG_KERNELS_WINDOW_H_
