// What decides how fast a board is at the moment.
#ifndef FSG_BENCHMARK_FACTS_H_
#define FSG_BENCHMARK_FACTS_H_

#include <stdint.h>

// Peak resident memory of this process so far.
int64_t PeakBytes();

// What an inference uses, where the board has a sensor: of energy, the difference over all timed runs; of
// power, the mean of its readings right behind each run, times the mean time of a run.
class EnergyMeter {
 public:
  void Start();
  void Note(double seconds);   // after each run, which took so long
  double Millijoules() const;  // of one run; not a number without a sensor
  double FromPower() const;    // the same without counters, which also count pauses between the runs

 private:
  double joules_ = 0, seconds_ = 0, watts_ = 0;
  int runs_ = 0;
  bool has_power_ = false;
};

// Prints them as a JSON object; null where the system does not say.
void PrintFacts();

#endif  // FSG_BENCHMARK_FACTS_H_
