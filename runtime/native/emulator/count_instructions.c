// A plugin for qemu-aarch64 that prints how many instructions the program has executed:
//
//   cc -shared -fPIC -O2 -o count_instructions.so count_instructions.c
//   qemu-aarch64 -plugin ./count_instructions.so PROGRAM
//
// The few declarations it needs of qemu's plugin interface, version 1, are written out: no package has them.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum { kInlineAddU64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t, void*),
                                    void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
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

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info* info, int argc, char** argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, AtTranslation);
  qemu_plugin_register_atexit_cb(id, AtExit, NULL);
  return 0;
}
