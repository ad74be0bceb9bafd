// What decides how fast a board is at the moment.
#ifndef FSG_NATIVE_PROGRAM_FACTS_H_
#define FSG_NATIVE_PROGRAM_FACTS_H_

#include <stdint.h>

// Peak resident memory of this process so far.
int64_t PeakBytes();

// Prints them as a JSON object; null where the system does not say.
void PrintFacts();

#endif  // FSG_NATIVE_PROGRAM_FACTS_H_
