package kubernetes

import (
	"crypto/rand"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// credentials are what a client needs: where the API is, whom to trust for it, and a token for each user.
type credentials struct {
	url       string
	authority []byte // the CA's certificate, PEM
	tokens    map[string]string
}

// prepareCredentials makes what is missing in the folder and returns what is there. The files that can be derived are written anew each time.
func prepareCredentials(dir folder, address netip.AddrPort, users []User) (credentials, error) {
	c := credentials{url: "https://" + address.String()}
	authority, err := prepareAuthority(dir)
	if err != nil {
		return c, fmt.Errorf("certificate authority: %w", err)
	}
	c.authority = authority.certificatePEM()
	if err := prepareServing(dir, authority, address.Addr()); err != nil {
		return c, fmt.Errorf("serving certificate: %w", err)
	}
	if err := prepareAccountKey(dir); err != nil {
		return c, fmt.Errorf("service account key: %w", err)
	}
	everybody := append([]User{{Name: Admin, Groups: []string{Masters}}, {Name: controllerManagerUser}, {Name: proxyUser}}, users...)
	if c.tokens, err = prepareTokens(dir, everybody); err != nil {
		return c, fmt.Errorf("tokens: %w", err)
	}
	return c, errors.Join(
		dir.write(authorityCertFile, c.authority),
		c.writeKubeconfig(dir, adminKubeconfig, Admin),
		c.writeKubeconfig(dir, managerKubeconfig, controllerManagerUser),
		c.writeKubeconfig(dir, proxyKubeconfig, proxyUser),
	)
}

// address is where the API listens.
func (c credentials) address() string { return strings.TrimPrefix(c.url, "https://") }

func (c credentials) restConfig(user string) (*rest.Config, error) {
	token, known := c.tokens[user]
	if !known {
		return nil, fmt.Errorf("%w: %s", ErrUnknownUser, user)
	}
	return &rest.Config{Host: c.url, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.authority}}, nil
}

func (c credentials) writeKubeconfig(dir folder, name, user string) error {
	const cluster = "orlop"
	config := clientcmdapi.NewConfig()
	config.Clusters[cluster] = &clientcmdapi.Cluster{Server: c.url, CertificateAuthorityData: c.authority}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: c.tokens[user]}
	config.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user}
	config.CurrentContext = cluster
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return dir.write(name, content)
}

// prepareTokens writes kube-apiserver's token file for exactly these users and returns the tokens by user. Who had a token keeps it.
func prepareTokens(dir folder, users []User) (map[string]string, error) {
	former, err := readTokens(dir)
	if err != nil {
		return nil, err
	}
	var file strings.Builder
	rows := csv.NewWriter(&file)
	tokens := make(map[string]string, len(users))
	for _, user := range users {
		token, had := former[user.Name]
		if !had {
			token = rand.Text()
		}
		tokens[user.Name] = token
		if err := rows.Write([]string{token, user.Name, user.Name, strings.Join(user.Groups, ",")}); err != nil {
			return nil, err
		}
	}
	rows.Flush()
	return tokens, errors.Join(rows.Error(), dir.write(tokensFile, []byte(file.String())))
}

// readTokens returns the tokens by user of the token file: rows of token, name, unique id, groups.
func readTokens(dir folder) (map[string]string, error) {
	file, err := os.Open(dir.path(tokensFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rows := csv.NewReader(file)
	rows.FieldsPerRecord = 4
	records, err := rows.ReadAll()
	if err != nil {
		return nil, err
	}
	tokens := make(map[string]string, len(records))
	for _, record := range records {
		tokens[record[1]] = record[0]
	}
	return tokens, nil
}
