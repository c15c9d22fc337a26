// Connections of the real world: sockets on Asio's loops, or in the hands of calling threads. For
// real_network.cc.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <memory>
#include <string>

#include "base/world.h"

namespace mooncake::real {

using Tcp = boost::asio::ip::tcp;
using Local = boost::asio::local::stream_protocol;

[[nodiscard]] Error FromAsio(const boost::system::error_code& code, std::string context);
[[nodiscard]] Tcp::endpoint ToAsio(const Endpoint& endpoint);
[[nodiscard]] Endpoint FromAsio(const Tcp::endpoint& endpoint);

/// A connected socket. One to another host ends within kDeadPathMax once its path is dead.
[[nodiscard]] std::unique_ptr<Stream> Wrap(Tcp::socket socket);
[[nodiscard]] std::unique_ptr<Stream> Wrap(Local::socket socket);

}  // namespace mooncake::real
