// Deals the units of a plan into partitions.
#ifndef FSG_DELEGATE_DEAL_H_
#define FSG_DELEGATE_DEAL_H_

#include "delegate/units.h"

namespace fsg {

// Deals the units into partitions as the interpreter itself would deal single nodes: alternately all that
// can run of what is claimed and of what is not.
//
// Given one partition's nodes, the interpreter keeps them together unless the very first node that can run
// is among them and the others cannot yet. A unit that would cause this is taken apart.
//
// False if memory is short.
bool DealUnits(Graph* graph, Units* units, FusionPlan* plan);

}  // namespace fsg

#endif  // FSG_DELEGATE_DEAL_H_
