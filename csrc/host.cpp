// The module dgseg._host. Each csrc/<thing>/host.cpp defines one bind function and is listed here.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_host, module) {
  module.doc() = "Native structures and renderers of dgseg that are no tensor operators.";
}
