// The stretch of a graph that the delegate runs as one node: its operators, the tensors between them, their
// memory.
#ifndef FSG_DELEGATE_PARTITION_H_
#define FSG_DELEGATE_PARTITION_H_

#include "delegate/op.h"

namespace fsg {

struct Slot {
  void* data;
  int64_t bytes, capacity;
  bool is_taken;
  int owner;  // the value that lives there, once others have made way
};

struct Partition {
  const Runtime* runtime;
  int number;         // in the order in which they were made
  bool is_valid;      // init cannot fail in every version of the interface; prepare reports what it met
  bool shares_loops;  // between threads, as far as the last run tells
  int op_count, value_count, slot_count;
  int op_limit, value_limit;
  Op* ops;
  Value* values;
  Slot* slots;
};

// Makes the operators and values of the nodes that the interpreter wants to replace: the units of the
// runtime's plan or, without one, operator by operator.
TfLiteStatus BuildPartition(TfLiteContext* context, const TfLiteDelegateParams& params, Partition* partition);

// What the interpreter calls for a delegated partition; delegate->data is the Runtime to use.
TfLiteRegistration PartitionRegistration();

}  // namespace fsg

#endif  // FSG_DELEGATE_PARTITION_H_
