// What the fast kernels share, written once in portable vector code. The file of an instruction set includes
// this one in a namespace of its own, under the instruction set it is named after; so none of the parts may
// include a header of the system, whose functions would be compiled for that set. The file defines
// beforehand:
//
//   FSG_KERNELS_NAME
//   kTile        pixels of a tile
//   kChannels    output channels of a filter block
//   kStep        bytes of one channel that stand together in a filter block
//   kPostOpTile  pixels whose 16 channels the post-operations keep in registers
//   kGrain       binary multiply-accumulates worth a thread's attention
//   kDots        [kTile] functions: the dot products of several filter blocks with 1, 2, ... kTile patches,
//   as
//                twice the popcounts, into rows of `lanes` int32
//   Number, kInt8Tile, DotsOf, as in int8_body.h
//   BitsBelow, BitsAbove, SignBits, RoundToInt8, as in bits_portable.h
#ifndef FSG_KERNELS_KERNELS_BODY_H_
#define FSG_KERNELS_KERNELS_BODY_H_

#include "kernels/convolve_body.h"
#include "kernels/int8_body.h"
#include "kernels/max_pool_body.h"
#include "kernels/pack_body.h"
#include "kernels/post_ops_body.h"

constexpr Kernels kKernels = {FSG_KERNELS_NAME, kTile,      kChannels, kStep, PackFloat,
                              PackInt8,         Convolve,   MaxPool,   Apply, sizeof(Number),
                              ConvolveInt8,     MaxPoolInt8};

#endif  // FSG_KERNELS_KERNELS_BODY_H_
