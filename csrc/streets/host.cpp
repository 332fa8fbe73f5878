// dgseg._host.render_street: the streets world for Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "kernel.h"

namespace dgseg {
namespace {

namespace py = pybind11;

using Mask = py::array_t<uint8_t, py::array::c_style>;

// (label, image or None, depth or None)
py::tuple render_street(int domain, uint64_t seed, uint64_t index, int64_t height, int64_t width, float misalignment,
                        bool unknown, bool image, bool depth, uint64_t shift, bool look, bool paints,
                        std::optional<Mask> pasted) {
  if (domain < 0 || domain >= kStreetsDomains) throw py::value_error("there is no such domain");
  if (height < 1 || width < 1 || height > 16384 || width > 16384)
    throw py::value_error("the size must be 1 to 16384 pixels a side");
  if (!(misalignment >= 0 && misalignment <= 64)) throw py::value_error("misalignment must be 0 to 64 pixels");
  if (pasted && (pasted->ndim() != 2 || pasted->shape(0) != height || pasted->shape(1) != width))
    throw py::value_error("the mask of pasted objects must have the size of the scene");
  py::array_t<uint8_t> label({height, width});
  py::object image_out = py::none(), depth_out = py::none();
  StreetsArgs args{StreetsDomain(domain), seed,    index,  height, width, misalignment, unknown,
                   label.mutable_data(),  nullptr, nullptr};
  const StreetsShift shifted{shift, look, paints, pasted ? pasted->data() : nullptr};
  if (look || paints || pasted) args.shift = &shifted;
  if (image) {
    py::array_t<uint8_t> pixels({int64_t(3), height, width});
    args.image = pixels.mutable_data();
    image_out = std::move(pixels);
  }
  if (depth) {
    py::array_t<float> metres({height, width});
    args.depth = metres.mutable_data();
    depth_out = std::move(metres);
  }
  {
    py::gil_scoped_release release;
    DGSEG_PICK(streets_render)(args);
  }
  return py::make_tuple(std::move(label), image_out, depth_out);
}

}  // namespace

void bind_streets(py::module_& module) {
  module.def("render_street", &render_street, py::arg("domain"), py::arg("seed"), py::arg("index"), py::arg("height"),
             py::arg("width"), py::kw_only(), py::arg("misalignment") = 0.0f, py::arg("unknown") = false,
             py::arg("image") = true, py::arg("depth") = false, py::arg("shift") = uint64_t(0), py::arg("look") = false,
             py::arg("paints") = false, py::arg("pasted") = std::nullopt,
             "(label uint8 [H, W], image uint8 [3, H, W] or None, depth float32 [H, W] or None) of one scene");
}

}  // namespace dgseg
