// The fused Mamba block of scan.h, written once in portable vector code. Each scan*.cc includes this file in
// a namespace of its own under the instruction set it is named after, and says its name in FSG_SCAN_NAME; so
// no part of it may include a header of the system, whose functions would be compiled for that set.
#ifndef FSG_TRAINING_NATIVE_SCAN_BODY_H_
#define FSG_TRAINING_NATIVE_SCAN_BODY_H_

#include "scan_backward.h"
#include "scan_forward.h"

bool ScanForward(const Scan& scan, const Item& item) {
  return scan.is_double ? Worker<double>(scan, item).Forward() : Worker<float>(scan, item).Forward();
}

bool ScanBackward(const Scan& scan, const Item& item) {
  return scan.is_double ? Worker<double>(scan, item).Backward() : Worker<float>(scan, item).Backward();
}

const ScanKernels kKernels = {FSG_SCAN_NAME, ScanForward, ScanBackward};

#endif  // FSG_TRAINING_NATIVE_SCAN_BODY_H_
