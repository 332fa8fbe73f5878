// dgseg._host.distort: numpy arrays in and out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "kernel.h"

namespace py = pybind11;

namespace dgseg {

void bind_photometric(py::module_& module) {
  using Image = py::array_t<uint8_t, py::array::c_style>;
  module.def(
      "distort",
      [](const Image& image, float brightness, float contrast, float saturation, float hue, bool contrast_first) {
        if (image.ndim() != 3 || image.shape(0) != 3)
          throw py::value_error("distort takes an RGB image as uint8 [3, H, W]");
        if (!(hue >= -3 && hue <= 3)) throw py::value_error("hue is given in sixths of a turn, within [-3, 3]");
        if (!(contrast >= 0 && saturation >= 0)) throw py::value_error("contrast and saturation must be at least 0");
        Image out({image.shape(0), image.shape(1), image.shape(2)});
        const uint8_t* from = image.data();
        uint8_t* to = out.mutable_data();
        const int64_t pixels = image.shape(1) * image.shape(2);
        const Distortion distortion{brightness, contrast, saturation, hue, contrast_first};
        py::gil_scoped_release release;
        DGSEG_PICK(distort)(from, to, pixels, distortion);
        return out;
      },
      py::arg("image").noconvert(), py::kw_only(), py::arg("brightness"), py::arg("contrast"), py::arg("saturation"),
      py::arg("hue"), py::arg("contrast_first"));
}

}  // namespace dgseg
