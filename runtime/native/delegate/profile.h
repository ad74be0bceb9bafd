// What every operator of the delegate took, for programs that ask: fsg_profile, fsg_profiled and
// fsg_partitions in delegate.cc.
#ifndef FSG_DELEGATE_PROFILE_H_
#define FSG_DELEGATE_PROFILE_H_

#include <stdint.h>

namespace fsg {

// One run of an operator.
struct Event {
  char name[80];
  double begin, end;  // seconds of the monotonic clock
  int64_t macs;       // binary multiply-accumulates
  int64_t partition;  // the number of that which it is in
  const void* op;     // what name, macs and partition are of; nullptr at first
};

struct Profile {
  Event* events;  // nullptr: nobody asks
  int capacity, count;
  int partition_count;
  int* owners;  // the number of the partition that runs a node of the file; -1: LiteRT runs it
  int owner_count;
};

}  // namespace fsg

#endif  // FSG_DELEGATE_PROFILE_H_
