#include "drop_in/metadata_service.h"

#include "base/await.h"
#include "directory/http/directory_http.h"

namespace mooncake::drop_in {

MetadataService::MetadataService()
    : real_(std::make_unique<RealWorld>()),
      port_(std::make_shared<PortServer>(real_->world(), metrics_, PortServerOptions{})) {}

Result<std::unique_ptr<MetadataService>> MetadataService::Open(std::string_view host,
                                                               std::uint16_t port) {
  Endpoint at{IpAddress::LoopbackV4(), port};
  if (host != "localhost") {
    MC_TRY(at.address, ParseIpAddress(host));
  }
  std::unique_ptr<MetadataService> service(new MetadataService);
  World& world = service->real_->world();
  MC_TRY(std::shared_ptr<Listener> listener, world.network.Listen(world.control, at));
  service->bound_ = listener->bound();
  service->port_->on_http =
      DirectoryHttp(service->metrics_, std::make_shared<MetadataServer>(world));
  Post(world.control, [server = service->port_, listener] { server->Serve(listener); });
  return service;
}

MetadataService::~MetadataService() {
  const auto close = [](std::shared_ptr<PortServer> port) -> Task<void> {
    const Error cause{ErrorId::kClosed, "the directory stops"};
    port->Close(cause);
    co_return;
  };
  Await(real_->world().control, close(port_));
  real_->Stop();
}

}  // namespace mooncake::drop_in
