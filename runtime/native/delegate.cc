extern "C" __attribute__((visibility("default"))) void* tflite_plugin_create_delegate(char**, char**, unsigned long, void (*)(const char*)) { return nullptr; }
