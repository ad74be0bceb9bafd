// A plugin for qemu-aarch64 that prints how many instructions the program has executed:
//
//   cc -shared -fPIC -O2 -o count_instructions.so count_instructions.c
//   qemu-aarch64 -plugin ./count_instructions.so PROGRAM
//
// and, with -plugin ./count_instructions.so,out=FILE, where. FILE gets lines, in the order of what happens:
//
// - "b NUMBER ADDRESS WORDS": a basic block, when it is first translated; its address and its instructions,
//   8 digits each, are hexadecimal;
// - "x NUMBER TIMES": how often a block ran since the last mark, both decimal;
// - "m": a mark: the program read the monotonic clock, which is a system call under qemu.
//
// The latter is for programs of one thread. The few declarations it needs of qemu's plugin interface, version
// 1, are written out: no package has them.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
enum { kInlineAddU64 = 0 };

typedef void (*SyscallCallback)(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2,
                                uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t, void*),
                                    void* data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id, SyscallCallback callback);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb* block);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* block, size_t index);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block, int op, void* counter,
                                              uint64_t amount);

EXPORT int qemu_plugin_version = 1;

static uint64_t executed;

static void AtTranslation(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, kInlineAddU64, &executed, qemu_plugin_tb_n_insns(block));
}

static void AtExit(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  fprintf(stderr, "%" PRIu64 " instructions\n", executed);
}

// What qemu translated; it may do so again, with the same code, and these stay where they are.
typedef struct Block {
  struct Block* next;  // of those in the same list of the table
  uint64_t address, times, written;
  size_t number, count;
  uint32_t code[];
} Block;

enum { kInstructionBytes = 4, kLists = 1 << 14, kClockGettime = 113, kMonotonic = 1 };

static FILE* out;
static Block* table[kLists];
static Block** blocks;  // by number
static size_t block_count, capacity;

static void* Grown(void* memory, size_t bytes) {
  memory = realloc(memory, bytes);
  if (memory == NULL) {
    fprintf(stderr, "out of memory\n");
    exit(1);
  }
  return memory;
}

static Block* Find(const struct qemu_plugin_tb* translated) {
  const size_t count = qemu_plugin_tb_n_insns(translated), bytes = count * kInstructionBytes;
  Block* block = Grown(NULL, sizeof(Block) + bytes);
  block->address = qemu_plugin_tb_vaddr(translated), block->times = block->written = 0;
  block->number = block_count, block->count = count;
  for (size_t i = 0; i < count; ++i) {
    const struct qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(translated, i);
    memcpy(&block->code[i], qemu_plugin_insn_data(instruction), kInstructionBytes);
  }
  Block** list = &table[block->address / kInstructionBytes % kLists];
  for (Block* known = *list; known != NULL; known = known->next) {
    if (known->address == block->address && known->count == count &&
        memcmp(known->code, block->code, bytes) == 0) {
      free(block);
      return known;
    }
  }
  block->next = *list, *list = block;
  if (block_count == capacity) {
    capacity = capacity > 0 ? 2 * capacity : 1024;
    blocks = Grown(blocks, capacity * sizeof(Block*));
  }
  blocks[block_count++] = block;
  fprintf(out, "b %zu %" PRIx64 " ", block->number, block->address);
  for (size_t i = 0; i < count; ++i) fprintf(out, "%08" PRIx32, block->code[i]);
  fputc('\n', out);
  return block;
}

static void AtTracedTranslation(qemu_plugin_id_t id, struct qemu_plugin_tb* translated) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(translated, kInlineAddU64, &Find(translated)->times, 1);
}

static void WriteTimes(void) {
  for (size_t i = 0; i < block_count; ++i) {
    Block* block = blocks[i];
    if (block->times == block->written) continue;
    fprintf(out, "x %zu %" PRIu64 "\n", i, block->times - block->written);
    block->written = block->times;
  }
}

static void AtSyscall(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2,
                      uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != kClockGettime || a1 != kMonotonic) return;
  WriteTimes();
  fputs("m\n", out);
}

static void AtTracedExit(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  WriteTimes();
  fclose(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info* info, int argc, char** argv) {
  (void)info;
  if (argc == 0) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, AtTranslation);
    qemu_plugin_register_atexit_cb(id, AtExit, NULL);
    return 0;
  }
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) {
    fprintf(stderr, "the plugin takes out=FILE\n");
    return 1;
  }
  out = fopen(argv[0] + 4, "we");
  if (out == NULL) {
    perror(argv[0] + 4);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, AtTracedTranslation);
  qemu_plugin_register_vcpu_syscall_cb(id, AtSyscall);
  qemu_plugin_register_atexit_cb(id, AtTracedExit, NULL);
  return 0;
}
