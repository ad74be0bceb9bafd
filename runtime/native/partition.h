// The stretch of a graph that the delegate runs as one node: its operators, the tensors between them, their
// memory.
#ifndef FSG_NATIVE_PARTITION_H_
#define FSG_NATIVE_PARTITION_H_

#include "ops.h"

namespace fsg {

// What the interpreter calls for a delegated partition; delegate->data is its Runtime.
TfLiteRegistration PartitionRegistration();

}  // namespace fsg

#endif  // FSG_NATIVE_PARTITION_H_
