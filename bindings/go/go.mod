module mooncake/transferengine

go 1.22
