#include "python/metadata_service.h"

#include <memory>
#include <string>

#include "drop_in/metadata_service.h"
#include "python/raise.h"
#include "python/without_gil.h"

namespace mooncake::python {
namespace {

namespace py = pybind11;

class Service {
 public:
  Service(const std::string& host, std::uint16_t port) {
    auto opened = [&] {
      const WithoutGil waiting;
      return drop_in::MetadataService::Open(host, port);
    }();
    if (!opened) Raise(opened.error());
    service_ = *std::move(opened);
  }
  ~Service() {
    RunWithoutGil([this] { service_ = nullptr; });
  }
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  [[nodiscard]] int port() const { return service_->bound().port; }

 private:
  std::unique_ptr<drop_in::MetadataService> service_;
};

}  // namespace

void BindMetadataService(py::module_& module) {
  py::class_<Service>(module, "_MetadataServer")
      .def(py::init<const std::string&, std::uint16_t>())
      .def_property_readonly("port", &Service::port);
}

}  // namespace mooncake::python
