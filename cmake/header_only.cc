// The one place where the code of Asio and Boost.JSON is compiled; everybody else sees
// declarations.
#include <boost/asio/impl/src.hpp>
#include <boost/json/src.hpp>
