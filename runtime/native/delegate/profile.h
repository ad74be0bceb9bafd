// What every operator of the delegate took, for programs that ask: fsg_profile and fsg_profiled in
// delegate.cc.
#ifndef FSG_DELEGATE_PROFILE_H_
#define FSG_DELEGATE_PROFILE_H_

#include <stdint.h>

namespace fsg {

// One run of an operator.
struct Event {
  char name[80];
  double begin, end;  // seconds of the monotonic clock
  int64_t macs;       // binary multiply-accumulates
};

struct Profile {
  Event* events;  // nullptr: nobody asks
  int capacity, count;
};

}  // namespace fsg

#endif  // FSG_DELEGATE_PROFILE_H_
