package containerimage

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"strings"

	"orlop.dev/services/image/internal/failure"
)

// Keychain has the credentials of registries. It prints as nothing.
type Keychain struct{ keys map[string]key }

// key is a name and a password.
type key struct{ username, password string }

// String keeps secrets out of texts.
func (Keychain) String() string { return "(credentials)" }

// GoString keeps secrets out of texts.
func (Keychain) GoString() string { return "(credentials)" }

// LogValue keeps secrets out of logs.
func (Keychain) LogValue() slog.Value { return slog.StringValue("(credentials)") }

func (k key) isZero() bool { return k == key{} }

func (k key) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(k.username+":"+k.password))
}

// ParseKeychain reads the content of a Secret of type
// kubernetes.io/dockerconfigjson. Its errors hold nothing of it.
func ParseKeychain(text []byte) (Keychain, error) {
	var config struct {
		Auths map[string]struct{ Auth, Username, Password string } `json:"auths"`
	}
	if json.Unmarshal(text, &config) != nil {
		return Keychain{}, failure.Terminalf(ReasonInvalidSecret, "the pull secret is no Docker configuration in JSON")
	}
	keys := Keychain{keys: map[string]key{}}
	for name, entry := range config.Auths {
		found := key{entry.Username, entry.Password}
		if found.isZero() && entry.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(entry.Auth)
			username, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return Keychain{}, failure.Terminalf(ReasonInvalidSecret, "the pull secret has an entry that is no name and password")
			}
			found = key{username, strings.TrimRight(password, "\x00")}
		}
		keys.keys[registryOf(name)] = found
	}
	return keys, nil
}

// registryOf brings the names of entries to one form: some are URLs, and Docker
// Hub has several names.
func registryOf(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	name = strings.TrimSuffix(name, "/")
	for _, path := range []string{"/v1", "/v2"} {
		name = strings.TrimSuffix(name, path)
	}
	if name == "index.docker.io" || name == dockerHubServer {
		return dockerHub
	}
	return name
}

// find returns the most special entry: one of the repository or of a part of its
// path, else the registry's.
func (k Keychain) find(registry, repository string) key {
	for name := registry + "/" + repository; ; {
		if found, ok := k.keys[name]; ok {
			return found
		}
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			return key{}
		}
		name = name[:slash]
	}
}
