// A Mamba block with one token per step (d_model 1), fused: forward and backward over chunks of tokens.
//
// For every sequence of tokens g_t, with the parameter rows named below, channels d and states s:
//
//   c_td = conv_bias_d + sum_k taps_kd g_(t-K+1+k)                 (tokens before the first are 0)
//   u_td = silu(c_td)            [r_t, B_t, C_t] = project u_t     dt_td = softplus(dt_weight_d r_t +
//   dt_bias_d) h_tds = exp(dt_td A_sd) h_(t-1)ds + dt_td u_td B_ts            y_td = sum_s h_tds C_ts + D_d
//   u_td output_t = sum_d out_d y_td silu(gate_d g_t)
//
// All sequences lie in one array; outputs are wanted at the last few tokens of each. Nothing of size tokens x
// channels is stored: a chunk of kChunk tokens passes all stages in the cache, the forward pass keeps the
// states h at the chunks' borders, and the backward pass computes a chunk again from there. A vector register
// holds channels.

#ifndef FSG_TRAINING_NATIVE_SCAN_H_
#define FSG_TRAINING_NATIVE_SCAN_H_

#include <stdint.h>

namespace fsg {

constexpr int kChunk = 64;  // tokens; training/scan/cpu.py counts borders with it
constexpr int kVectorBytes = 64;

// Everything that all items of one call share; cpu.py mirrors it. Pointers to `void` are float or
// double.
struct Scan {
  int64_t is_double;
  int64_t channels, states, taps;  // channels fill whole vectors
  double reach;                    // tokens that have decayed below exp(-reach) are not visited
  const void* parameters;  // rows of `channels`: taps, conv_bias, gate, project [1 + 2 states], dt_weight,
                           // dt_bias, A [states], D, out
  const void* tokens;
  const int64_t* token_ends;  // sequence i has the tokens token_ends[i] to token_ends[i + 1]
  const int64_t*
      output_ends;  // and as many last outputs as lie between output_ends[i] and output_ends[i + 1]
  int64_t* starts;  // of each sequence: its first visited token; written by forward, read by backward
  void* outputs;    // written by forward
  const void* grad_outputs;  // read by backward
  void* grad_tokens;         // added to by backward
};

// Consecutive sequences that one thread computes.
struct Item {
  int64_t first, end;
  void* borders;  // [chunks, channels, states] states before each chunk; null where no backward pass follows
  void* grad_parameters;  // like `parameters`; added to by backward
};

struct ScanKernels {
  const char* name;
  bool (*forward)(const Scan&, const Item&);  // false where memory is lacking
  bool (*backward)(const Scan&, const Item&);
};

}  // namespace fsg

#endif  // FSG_TRAINING_NATIVE_SCAN_H_
